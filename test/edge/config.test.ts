import { env } from 'cloudflare:workers'
import { afterEach, describe, test, vi } from 'vitest'
import { checkConfig, configOf } from '../../edge/config.ts'
import { createConfigWith, createEnvWith } from './support/config.ts'

afterEach(() => vi.restoreAllMocks())

test('is parsed once, and again after a variable has changed', ({ expect }) => {
  const parsed = configOf(env)
  expect(configOf(env)).toBe(parsed)
  const slots = env.GPU_SLOTS
  env.GPU_SLOTS = '7'
  expect(configOf(env).gpuSlots.gpus).toBe(7)
  env.GPU_SLOTS = slots
  expect(configOf(env).gpuSlots).toEqual({ gpus: 1000, sharing: 1 })
})

describe('malformed variables', () => {
  const malformed = createEnvWith({
    GPU_RUN_SECONDS: 'a while',
    GPU_SLOTS: undefined,
    OCTET_PRICES: { base: -1 },
    WEBHOOK_TIMEOUT_SECONDS: 'soon',
    KEY_PEPPER: 'hunter2',
  })
  const message = [
    'GPU_SLOTS is missing; it must be a whole number from 1 to 100000.',
    'GPU_RUN_SECONDS is "a while"; it must be a number of seconds above 0 and up to 86400.',
    'KEY_PEPPER is malformed; it must be version:secret pairs, newest first, separated by commas; a secret has at least 32 random characters.',
    'OCTET_PRICES.base is -1: Too small: expected number to be >=0.',
    'WEBHOOK_TIMEOUT_SECONDS is "soon"; it must be a number of at least 0.001.',
  ].join(' ')

  test('are reported in one message, without the values of secrets', ({ expect }) => {
    const logged = vi.spyOn(console, 'error').mockImplementation(() => {})
    expect(() => checkConfig(malformed)).toThrow(new Error(message))
    expect(() => configOf(malformed).prices).toThrow(new Error(message))
    expect(logged).toHaveBeenCalledTimes(1)
    expect(logged.mock.calls.join()).not.toContain('hunter2')
  })

  test('leave the other sections usable', ({ expect }) => {
    expect(configOf(malformed).catalog).toEqual(configOf(env).catalog)
    expect(configOf(malformed).webhooks.timeoutMs).toBe(15_000)
  })
})

test.for([{ 'modal key': 'hunter2' }, { 'modal-key': 'hunter2\n' + 'x' }])(
  'proxy headers that are invalid in a request are malformed: %j',
  (headers, { expect }) => {
    const logged = vi.spyOn(console, 'error').mockImplementation(() => {})
    const given = { GPU_PROXY_HEADERS: JSON.stringify({ default: headers }) }
    expect(() => createConfigWith(given).proxyHeaders).toThrow(
      /^GPU_PROXY_HEADERS is malformed; it must be JSON of the form/,
    )
    expect(logged.mock.calls.join()).not.toContain('hunter2')
  },
)

describe('recovery', () => {
  const defaults = { jobMs: 10_000, reservationMs: 900_000, usageMs: 43_200_000 }

  test('has defaults, and is a table or its JSON text', ({ expect }) => {
    expect(createConfigWith({ OCTET_RECOVERY: undefined }).recovery).toEqual(defaults)
    expect(configOf(env).recovery).toEqual(defaults)
    expect(createConfigWith({ OCTET_RECOVERY: '{"job_seconds": 0.5}' }).recovery).toEqual({ ...defaults, jobMs: 500 })
  })

  test.for([[{ job_seconds: 0 }], [{ seconds: 1 }], ['{job_seconds'], [7]])(
    'has its defaults if the variable is %j, and the problem is logged',
    ([given], { expect }) => {
      const logged = vi.spyOn(console, 'error').mockImplementation(() => {})
      const changed = createEnvWith({ OCTET_RECOVERY: given })
      expect(configOf(changed).recovery).toEqual(defaults)
      expect(() => checkConfig(changed)).not.toThrow()
      expect(logged.mock.calls.join()).toContain('OCTET_RECOVERY')
    },
  )
})

describe('webhook settings', () => {
  const DELAYS = 'numbers of seconds from 0, separated by commas'
  test.for([
    ['WEBHOOK_TIMEOUT_SECONDS', '0', 'a number of at least 0.001'],
    ['WEBHOOK_TIMEOUT_SECONDS', 'soon', 'a number of at least 0.001'],
    ['WEBHOOK_BREAKER_SECONDS', '-1', 'a number of at least 0'],
    ['WEBHOOK_BREAKER_SECONDS', '', 'a number of at least 0'],
    ['WEBHOOK_REPLAYS_PER_MINUTE', '0', 'a number of at least 1'],
    ...['soon', '5,x', '5,-1', '5;300'].map((text) => ['WEBHOOK_RETRY_SECONDS', text, DELAYS] as const),
  ] as const)('are reported by name and have their defaults: %s = "%s"', ([name, value, allowed], { expect }) => {
    const logged = vi.spyOn(console, 'error').mockImplementation(() => {})
    const { schedule, ...settings } = createConfigWith({ [name]: value }).webhooks
    expect(schedule).toHaveLength(9)
    expect(settings).toMatchObject({ timeoutMs: 15_000, breakerMs: 30_000, replaysPerMinute: 100 })
    expect(JSON.parse(logged.mock.calls[0]![0]).problems).toEqual([`${name} is "${value}"; it must be ${allowed}.`])
  })
})

describe('the receiver of spans', () => {
  const receiver = { OTEL_EXPORTER_OTLP_ENDPOINT: 'https://spans.example/otlp/' }
  const headersOf = (given: string) =>
    createConfigWith({ ...receiver, OTEL_EXPORTER_OTLP_HEADERS: given }).traces?.headers

  test('has headers from percent-encoded pairs', ({ expect }) => {
    expect(headersOf('')).toEqual({})
    expect(headersOf(' X-Key = a&b+c==, authorization=Basic%20YTpi ,')).toEqual({
      'x-key': 'a&b+c==',
      authorization: 'Basic YTpi',
    })
  })

  test.for(['hunter2', '=hunter2', 'my key=hunter2', 'x-key=hunter2%0a.', 'x-key=%hunter2'])(
    'is disabled if its headers are malformed, and these are not logged: %s',
    (given, { expect }) => {
      const logged = vi.spyOn(console, 'error').mockImplementation(() => {})
      const changed = createEnvWith({ ...receiver, OTEL_EXPORTER_OTLP_HEADERS: given })
      expect(configOf(changed).traces).toBeNull()
      // Jobs continue without spans.
      expect(() => checkConfig(changed)).not.toThrow()
      expect(logged.mock.calls.join()).toContain('OTEL_EXPORTER_OTLP_HEADERS is malformed')
      expect(logged.mock.calls.join()).not.toContain('hunter2')
    },
  )
})
