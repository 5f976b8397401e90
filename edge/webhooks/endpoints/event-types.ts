/** The types of events to which an endpoint can subscribe. */
export const EVENT_TYPES = ['job.succeeded', 'job.failed', 'job.canceled'] as const
export type EventType = (typeof EVENT_TYPES)[number] | 'job.progress' | 'webhook.test'
