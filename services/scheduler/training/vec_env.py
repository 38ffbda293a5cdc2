"""Adapt the twin's environment to Stable-Baselines3."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from accelerator_autopilot.scheduler.twin.environment import TwinEnv


class TwinVecEnv(VecEnv):
    """All pools end together; the trainer resets before it continues."""

    def __init__(self, env: TwinEnv) -> None:
        self.env = env
        self._actions: NDArray[np.float32] = np.zeros(0, np.float32)
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> NDArray[np.float32]:
        """Reset to new pools."""
        observed, _ = self.env.reset()
        return observed

    def step_async(self, actions: NDArray[np.float32]) -> None:
        """Store the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Decide once for every pool; an end truncates the episode, it does not terminate it."""
        observed, reward, _, cut, _ = self.env.step(self._actions)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if cut.all():
            infos = [{"TimeLimit.truncated": True, "terminal_observation": row} for row in observed]
        return observed, reward.astype(np.float32), cut, infos

    def close(self) -> None:
        """Do nothing: there is nothing to close."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:  # noqa: ARG002
        """Return the same attribute for every pool."""
        return [getattr(self.env, attr_name, None)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:  # noqa: ARG002
        """Set the attribute for every pool."""
        setattr(self.env, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:  # noqa: ARG002
        """Call the method once, for all."""
        return [getattr(self.env, method_name)(*args, **kwargs)]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:  # noqa: ARG002
        """Return False for every pool."""
        return [False] * self.num_envs
