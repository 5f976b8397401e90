// Faults of the engine's thread, armed by the soak and raised by the next run of a session.
export const ENGINE_FAULTS = ['throw', 'out of memory', 'not a number', 'thread ends', 'thread throws', 'slow'] as const
export type EngineFault = (typeof ENGINE_FAULTS)[number]
export const CHANNEL = 'octet-soak-faults'
