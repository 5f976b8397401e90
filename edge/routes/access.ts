// The access rules and body limits of every route.
import { LIMITS } from '#contract'
import { type Access, allowKey, allowKeyOrToken, generates, UPLOAD_BYTES } from '../auth/access.ts'
import type { Dialect, DialectRoute } from '../dialects/definition/dialect.ts'
import { DIALECTS } from '../dialects/dialects.ts'

/** Maximum size of a file whose marks are read: above that of any PNG of 2048² pixels. */
const VERIFIED_BYTES = 16 * 1024 * 1024

const NATIVE: Readonly<Record<string, Access>> = {
  'GET /healthz': { by: 'anyone' },
  'GET /.well-known/jwks.json': { by: 'anyone' },

  'POST /mcp': { ...allowKeyOrToken('generate'), bodyBytes: LIMITS.requestBytes },

  'GET /v1/accounts/:account': { by: 'operator' },
  'PATCH /v1/accounts/:account': { by: 'operator' },
  'POST /v1/accounts/:account/credits': { by: 'operator' },
  'GET /v1/accounts/:account/export': { by: 'operator' },
  'DELETE /v1/accounts/:account': { by: 'operator' },
  'GET /v1/account/export': allowKey('admin'),
  'DELETE /v1/account': allowKey('admin'),
  'GET /v1/operator/status': { by: 'operator' },
  'GET /v1/operator/jobs/:id': { by: 'operator' },

  'POST /v1/keys': { by: 'manager' },
  'GET /v1/keys': { by: 'manager' },
  'GET /v1/keys/:id': { by: 'manager' },
  'PATCH /v1/keys/:id': { by: 'manager' },
  'DELETE /v1/keys/:id': { by: 'manager' },
  'POST /v1/keys/:id/rotate': { by: 'manager' },

  'POST /v1/jobs': generates,
  'PUT /v1/jobs/:id': { ...allowKey('generate'), bodyBytes: UPLOAD_BYTES, admits: true },
  'POST /v1/quote': { ...allowKeyOrToken(), bodyBytes: LIMITS.requestBytes },

  'GET /v1/jobs': allowKey('read'),
  'GET /v1/jobs/:id': allowKeyOrToken('read'),
  'GET /v1/jobs/:id/events': { by: 'link', scope: 'read', tokens: true },
  'GET /v1/jobs/:id/receipts': allowKeyOrToken('read'),
  'DELETE /v1/jobs/:id': allowKeyOrToken('generate'),
  'POST /v1/jobs/:id/cancel': allowKeyOrToken('generate'),
  'DELETE /v1/jobs/:id/images': allowKeyOrToken('generate'),
  'GET /v1/results/:job/:file': { by: 'link', scope: 'read', tokens: true },
  'DELETE /v1/results/:job/:file': allowKeyOrToken('generate'),

  'GET /v1/models': allowKeyOrToken(),
  'GET /v1/models/:id': allowKeyOrToken(),
  'POST /v1/prewarm': allowKeyOrToken('generate'),
  'POST /v1/playground/tokens': { by: 'anyone' },
  'POST /v1/verify': { by: 'anyone', bodyBytes: VERIFIED_BYTES },
  'POST /v1/tokens': allowKey('generate'),
  'GET /v1/usage': allowKey('read'),

  'POST /v1/webhooks': allowKey('admin'),
  'GET /v1/webhooks': allowKey('read'),
  'GET /v1/webhooks/default/secret': allowKey('admin'),
  'GET /v1/webhooks/:id': allowKey('read'),
  'PATCH /v1/webhooks/:id': allowKey('admin'),
  'DELETE /v1/webhooks/:id': allowKey('admin'),
  'POST /v1/webhooks/:id/rotate': allowKey('admin'),
  'POST /v1/webhooks/:id/test': allowKey('admin'),
  'GET /v1/webhooks/:id/deliveries': allowKey('read'),
  'POST /v1/webhooks/:id/deliveries/:event/replay': allowKey('admin'),
  'POST /v1/webhooks/:id/replay': allowKey('admin'),
}

/** Access rules of a dialect's routes, by action. */
const BY_ACTION: Record<DialectRoute['action'], Access> = {
  submit: generates,
  read: allowKeyOrToken('read'),
  follow: { by: 'link', scope: 'read', tokens: true },
  cancel: allowKeyOrToken('generate'),
  list: allowKey('read'),
  interrupt: allowKeyOrToken('generate'),
  choose: allowKey('generate'),
  describe: allowKeyOrToken(),
}

/** The rules of all routes with those of these dialects. */
export const accessRules = (dialects: readonly Dialect[]): Readonly<Record<string, Access>> => ({
  ...NATIVE,
  ...Object.fromEntries(
    dialects
      .flatMap(({ routes }) => routes)
      .map(({ method, path, action }) => [`${method} ${path}`, BY_ACTION[action]]),
  ),
})

export const ACCESS = accessRules(DIALECTS)
