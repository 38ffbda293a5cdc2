// Jobs over bare NATS: go run . URL run KIND PAYLOAD ID, go run . URL cancel ID.
// A payload of - is read from standard input. Needs github.com/nats-io/nats.go. docs/reference/nats-protocol.md describes the protocol.
package main

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	inlineBytes = 256 * 1024
	day         = 24 * time.Hour
)

// token is a name as one part of a subject: every byte but letters, digits, - and _ is =XX.
func token(name string) string {
	var out strings.Builder
	for _, b := range []byte(name) {
		switch {
		case b >= 'a' && b <= 'z', b >= 'A' && b <= 'Z', b >= '0' && b <= '9', b == '-', b == '_':
			out.WriteByte(b)
		default:
			fmt.Fprintf(&out, "=%02X", b)
		}
	}
	return out.String()
}

// ofJob is an id as parts of a subject: what stands before its first point, if any, is its batch.
func ofJob(id string) string {
	batch, rest, found := strings.Cut(id, ".")
	if found && batch != "" && rest != "" {
		return token(batch) + "." + token(rest)
	}
	return token(id)
}

func payloads(nc *nats.Conn) (nats.ObjectStore, error) {
	js, err := nc.JetStream()
	if err != nil {
		return nil, err
	}
	return js.ObjectStore("payloads")
}

// findResult is the result, if there is one already.
func findResult(nc *nats.Conn, id string) (map[string]any, error) {
	found, err := nc.Request("$JS.API.DIRECT.GET.RESULTS.results."+ofJob(id), nil, 5*time.Second)
	if errors.Is(err, nats.ErrTimeout) {
		// No answer: whoever waits asks again.
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if found.Header.Get("Status") == "404" {
		return nil, nil
	}
	var result map[string]any
	if err := json.Unmarshal(found.Data, &result); err != nil {
		return nil, err
	}
	if name, ok := result["output_ref"].(string); ok && name != "" {
		store, err := payloads(nc)
		if err != nil {
			return nil, err
		}
		content, err := store.GetBytes(name)
		if err != nil {
			return nil, err
		}
		var kept map[string]any
		if err := json.Unmarshal(content, &kept); err != nil {
			return nil, err
		}
		result["output"] = kept["output"]
	}
	return result, nil
}

// run submits a job, which is stored when this has its confirmation, and waits for its result.
func run(nc *nats.Conn, kind, payload, id string, wait time.Duration) (map[string]any, error) {
	body := map[string]any{"payload": json.RawMessage(payload)}
	if len(payload) > inlineBytes {
		store, err := payloads(nc)
		if err != nil {
			return nil, err
		}
		// The name says when it may be deleted.
		name := fmt.Sprintf("%d-%x", time.Now().Add(day).Unix(), sha256.Sum256([]byte(id)))
		if _, err := store.PutBytes(name, []byte(payload)); err != nil {
			return nil, err
		}
		body = map[string]any{"payload_ref": name}
	}
	// Listen first and look second, so that a result in between is not missed.
	results, err := nc.SubscribeSync("results." + token(id))
	if err != nil {
		return nil, err
	}
	message := nats.NewMsg("jobs." + token(kind) + ".normal." + ofJob(id))
	message.Header.Set("Nats-Msg-Id", token(id))
	if message.Data, err = json.Marshal(body); err != nil {
		return nil, err
	}
	ack, err := nc.RequestMsg(message, 10*time.Second)
	if err != nil {
		return nil, err
	}
	var stored struct {
		Duplicate bool
		Error     *struct{ Description string }
	}
	if err := json.Unmarshal(ack.Data, &stored); err != nil {
		return nil, err
	}
	if stored.Error != nil {
		return nil, errors.New(stored.Error.Description)
	}
	for until := time.Now().Add(wait); time.Now().Before(until); {
		result, err := findResult(nc, id)
		if err != nil {
			return nil, err
		}
		if result != nil {
			result["duplicate"] = stored.Duplicate
			return result, nil
		}
		if _, err := results.NextMsg(5 * time.Second); err != nil && !errors.Is(err, nats.ErrTimeout) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%s: no result in time", id)
}

func main() {
	nc, err := nats.Connect(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	if os.Args[2] == "cancel" {
		js, err := nc.JetStream()
		if err != nil {
			log.Fatal(err)
		}
		if _, err := js.Publish("$KV.jobs."+token(os.Args[3]), []byte(`{"cancelled": true}`)); err != nil {
			log.Fatal(err)
		}
		return
	}
	payload := os.Args[4]
	if payload == "-" {
		read, err := io.ReadAll(os.Stdin)
		if err != nil {
			log.Fatal(err)
		}
		payload = string(read)
	}
	result, err := run(nc, os.Args[3], payload, os.Args[5], time.Minute)
	if err != nil {
		log.Fatal(err)
	}
	told, err := json.Marshal(result)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(told))
}
