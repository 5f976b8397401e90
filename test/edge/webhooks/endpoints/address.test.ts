// Blocked webhook addresses, in many notations.
import { describe, test } from 'vitest'
import { type AddressRules, findAddressProblem } from '../../../../edge/webhooks/endpoints/address.ts'

const rules: AddressRules = {
  ports: new Set(['443', '8443']),
  blocked: ['api.octet.io', 'Intern.Octet.io'],
  local: false,
}

const GOOD = [
  'https://hooks.customer.com',
  'https://hooks.customer.com/a/b?token=1&x=%20#part',
  'https://hooks.customer.com:443/in',
  'https://hooks.customer.com:8443/in',
  'https://HOOKS.Customer.COM./in',
  'https://xn--bcher-kva.com/in',
  'https://octet.io/in',
  'https://not-api.octet.io/in',
  'https://localhost.customer.com/in',
  'https://10.customer.com/in',
  'https://internal-hooks.customer.com/in',
]

const HOSTILE: Record<string, string[]> = {
  'must be an absolute URL': [
    '',
    'hooks',
    '/in',
    'hooks.customer.com/in',
    '//hooks.customer.com',
    'https://',
    'https://a..b..:99999/',
    'https://256.1.1.1/',
    'https://1.2.3.4.5/',
    'https://0x1g.0x1/',
    'https://[::1',
    'https://[::ffff:1.2.3.4.5]/',
  ],
  'must start with https://': [
    'http://hooks.customer.com',
    'ftp://hooks.customer.com',
    'file:///etc/passwd',
    'data:text/plain,x',
    'javascript:alert(1)',
    'gopher://hooks.customer.com',
    'ws://hooks.customer.com',
    'blob:https://hooks.customer.com/1',
  ],
  'must not contain a user name or password': [
    'https://user@hooks.customer.com',
    'https://user:pass@hooks.customer.com',
    'https://hooks.customer.com@127.0.0.1/',
    'https://:x@hooks.customer.com',
    'https://hooks.customer.com%2f@10.0.0.1/',
  ],
  'must use port 443 or 8443': [
    'https://hooks.customer.com:80',
    'https://hooks.customer.com:22',
    'https://hooks.customer.com:6379',
    'https://hooks.customer.com:1',
    'https://hooks.customer.com:65535',
  ],
  'must name a host, not an IP address': [
    'https://127.0.0.1',
    'https://127.1',
    'https://2130706433',
    'https://0x7f000001',
    'https://0X7F.1',
    'https://0177.0.0.1',
    'https://017700000001',
    'https://0x7f.0.0.0x1',
    'https://127.0.0.1.',
    'https://0',
    'https://0.0.0.0',
    'https://10.0.0.1',
    'https://172.16.0.1',
    'https://192.168.1.1',
    'https://169.254.169.254/latest/meta-data',
    'https://0xa9fea9fe/latest/meta-data',
    'https://100.64.0.1',
    'https://8.8.8.8',
    'https://%31%32%37.0.0.1',
    'https://[::1]',
    'https://[::]',
    'https://[0:0:0:0:0:0:0:1]',
    'https://[::ffff:127.0.0.1]',
    'https://[::ffff:7f00:1]',
    'https://[::127.0.0.1]',
    'https://[64:ff9b::7f00:1]',
    'https://[fe80::1]',
    'https://[fc00::1]',
    'https://[fd00:ec2::254]/latest/meta-data',
    'https://[2002:7f00:1::]',
  ],
  'must name a public host': [
    'https://localhost',
    'https://LOCALHOST',
    'https://localhost.',
    'https://%6cocalhost',
    'https://a.localhost',
    'https://localhost.localdomain',
    'https://metadata',
    'https://intranet',
    'https://printer.local',
    'https://printer.local.',
    'https://metadata.google.internal/computeMetadata/v1',
    'https://db.internal',
    'https://router.lan',
    'https://router.home.arpa',
    'https://vault.corp',
    'https://1.0.0.127.in-addr.arpa',
    'https://octet.test',
    'https://hidden.onion',
    'https://127.0.0.1.nip.io',
    'https://7f000001.nip.io',
    'https://10-0-0-1.sslip.io',
    'https://app.localtest.me',
    'https://lvh.me',
    'https://7f000001.c0a80001.rbndr.us',
    'https://octet.someone.workers.dev',
    'https://octet.pages.dev',
  ],
  'must not name this service itself': [
    'https://api.octet.io/v1/webhooks',
    'https://API.octet.io.',
    'https://eu.api.octet.io',
    'https://intern.octet.io',
    'https://a.intern.octet.io',
  ],
  'must be plain ASCII without spaces or backslashes': [
    'https://hooks.customer.com/a b',
    ' https://hooks.customer.com',
    'https://hooks.cust\nomer.com',
    'https://hooks.cust\tomer.com',
    'https:\\\\hooks.customer.com',
    'https://hooks.customer.com\\@127.0.0.1',
    'https://１２７.0.0.1',
    'https://127。0。0。1',
    'https://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ',
    'https://loc\u00adalhost',
    'https://bücher.com',
    'https://hooks.customer.com/\u0000',
  ],
  'must have at most 2048 characters': [`https://hooks.customer.com/${'a'.repeat(2048)}`],
}

test.for(GOOD)('%s is allowed as a webhook address', (address, { expect }) => {
  expect(findAddressProblem(address, rules)).toBeNull()
})

describe.for(Object.entries(HOSTILE))('%s', ([problem, addresses]) => {
  test.for(addresses)('%j', (address, { expect }) => {
    expect(findAddressProblem(address, rules)).toBe(problem)
  })
})

test('the table has at least its original number of entries', ({ expect }) => {
  expect(Object.values(HOSTILE).flat().length).toBeGreaterThanOrEqual(100)
})

test('the setting for development additionally allows only http and localhost', ({ expect }) => {
  const local = { ...rules, local: true }
  for (const address of [
    'http://127.0.0.1:9000/in',
    'http://localhost:9000',
    'https://[::1]:1/',
    'https://hooks.customer.com',
  ])
    expect(findAddressProblem(address, local)).toBeNull()
  for (const address of ['file:///etc/passwd', 'http://user:pass@127.0.0.1', 'nonsense', 'http://127.0.0.1/a b'])
    expect(findAddressProblem(address, local)).not.toBeNull()
})
