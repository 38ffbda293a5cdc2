-- Run by a superuser in the product's database before the recorder first starts; running it again changes nothing.
-- autopilot_recorder owns the database, migrates and writes; autopilot_reader (scheduler, Grafana) only reads.
DO $$
DECLARE name text;
BEGIN
  FOREACH name IN ARRAY ARRAY['autopilot_recorder', 'autopilot_reader'] LOOP
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
      EXECUTE format('CREATE ROLE %I LOGIN', name);
    END IF;
  END LOOP;
END $$;
ALTER ROLE autopilot_reader SET default_transaction_read_only = on;
ALTER ROLE autopilot_reader SET statement_timeout = '60s';
DO $$
BEGIN
  EXECUTE format('ALTER DATABASE %I OWNER TO autopilot_recorder', current_database());
  EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
  EXECUTE format('GRANT CONNECT ON DATABASE %I TO autopilot_reader', current_database());
END $$;
ALTER SCHEMA public OWNER TO autopilot_recorder;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO autopilot_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO autopilot_reader;
ALTER DEFAULT PRIVILEGES FOR ROLE autopilot_recorder IN SCHEMA public GRANT SELECT ON TABLES TO autopilot_reader;
