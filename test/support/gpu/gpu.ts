// Whether this machine has an NVIDIA GPU that its driver shows.
import { spawnSync } from 'node:child_process'

export const hasGpu = (): boolean => spawnSync('nvidia-smi', ['-L']).status === 0
