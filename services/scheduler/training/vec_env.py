"""The twin's environment as Stable-Baselines3 wants it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from accelerator_autopilot.scheduler.twin.environment import TwinEnv


class TwinVecEnv(VecEnv):
    """All pools end together; whoever trains resets before it goes on."""

    def __init__(self, env: TwinEnv) -> None:
        self.env = env
        self._actions: NDArray[np.float32] = np.zeros(0, np.float32)
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> NDArray[np.float32]:
        """New pools."""
        observed, _ = self.env.reset()
        return observed

    def step_async(self, actions: NDArray[np.float32]) -> None:
        """Keep the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """One decision for every pool; an end is a cut, not an end of the work."""
        observed, reward, _, cut, _ = self.env.step(self._actions)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if cut.all():
            infos = [{"TimeLimit.truncated": True, "terminal_observation": row} for row in observed]
        return observed, reward.astype(np.float32), cut, infos

    def close(self) -> None:
        """Nothing to close."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:  # noqa: ARG002
        """The same for every pool."""
        return [getattr(self.env, attr_name, None)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:  # noqa: ARG002
        """For every pool."""
        setattr(self.env, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:  # noqa: ARG002
        """Once, for all."""
        return [getattr(self.env, method_name)(*args, **kwargs)]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:  # noqa: ARG002
        """Never."""
        return [False] * self.num_envs
