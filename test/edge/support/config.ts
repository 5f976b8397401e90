// The configuration of the worker under test, and of workers with other variables.
import { env } from 'cloudflare:workers'
import { type Config, configOf } from '../../../edge/config.ts'

/** The environment with other values of some variables. */
export const createEnvWith = (variables: Record<string, unknown>): Env => ({ ...env, ...variables })

export const createConfigWith = (variables: Record<string, unknown>): Config => configOf(createEnvWith(variables))

export const { peppers } = configOf(env)
