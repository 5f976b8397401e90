// The access rules and body limits of every route.
import { LIMITS } from '#contract'
import { type Access, byKey, byKeyOrToken, generates, UPLOAD_BYTES } from '../auth/access.ts'
import type { Dialect, DialectRoute } from '../dialects/definition/dialect.ts'
import { DIALECTS } from '../dialects/dialects.ts'

/** Maximum size of a file whose marks are read: above that of any PNG of 2048² pixels. */
const VERIFIED_BYTES = 16 * 1024 * 1024

const NATIVE: Readonly<Record<string, Access>> = {
  'GET /healthz': { by: 'anyone' },
  'GET /.well-known/jwks.json': { by: 'anyone' },

  'POST /mcp': { ...byKeyOrToken('generate'), bodyBytes: LIMITS.requestBytes },

  'GET /v1/accounts/:account': { by: 'operator' },
  'PATCH /v1/accounts/:account': { by: 'operator' },
  'POST /v1/accounts/:account/credits': { by: 'operator' },
  'GET /v1/accounts/:account/export': { by: 'operator' },
  'DELETE /v1/accounts/:account': { by: 'operator' },
  'GET /v1/account/export': byKey('admin'),
  'DELETE /v1/account': byKey('admin'),
  'GET /v1/operator/status': { by: 'operator' },
  'GET /v1/operator/jobs/:id': { by: 'operator' },

  'POST /v1/keys': { by: 'manager' },
  'GET /v1/keys': { by: 'manager' },
  'GET /v1/keys/:id': { by: 'manager' },
  'PATCH /v1/keys/:id': { by: 'manager' },
  'DELETE /v1/keys/:id': { by: 'manager' },
  'POST /v1/keys/:id/rotate': { by: 'manager' },

  'POST /v1/jobs': generates,
  'PUT /v1/jobs/:id': { ...byKey('generate'), bodyBytes: UPLOAD_BYTES, admits: true },
  'POST /v1/quote': { ...byKeyOrToken(), bodyBytes: LIMITS.requestBytes },

  'GET /v1/jobs': byKey('read'),
  'GET /v1/jobs/:id': byKeyOrToken('read'),
  'GET /v1/jobs/:id/events': { by: 'link', scope: 'read', tokens: true },
  'GET /v1/jobs/:id/receipts': byKeyOrToken('read'),
  'DELETE /v1/jobs/:id': byKeyOrToken('generate'),
  'POST /v1/jobs/:id/cancel': byKeyOrToken('generate'),
  'DELETE /v1/jobs/:id/images': byKeyOrToken('generate'),
  'GET /v1/results/:job/:file': { by: 'link', scope: 'read', tokens: true },
  'DELETE /v1/results/:job/:file': byKeyOrToken('generate'),

  'GET /v1/models': byKeyOrToken(),
  'GET /v1/models/:id': byKeyOrToken(),
  'POST /v1/prewarm': byKeyOrToken('generate'),
  'POST /v1/playground/tokens': { by: 'anyone' },
  'POST /v1/verify': { by: 'anyone', bodyBytes: VERIFIED_BYTES },
  'POST /v1/tokens': byKey('generate'),
  'GET /v1/usage': byKey('read'),

  'POST /v1/webhooks': byKey('admin'),
  'GET /v1/webhooks': byKey('read'),
  'GET /v1/webhooks/default/secret': byKey('admin'),
  'GET /v1/webhooks/:id': byKey('read'),
  'PATCH /v1/webhooks/:id': byKey('admin'),
  'DELETE /v1/webhooks/:id': byKey('admin'),
  'POST /v1/webhooks/:id/rotate': byKey('admin'),
  'POST /v1/webhooks/:id/test': byKey('admin'),
  'GET /v1/webhooks/:id/deliveries': byKey('read'),
  'POST /v1/webhooks/:id/deliveries/:event/replay': byKey('admin'),
  'POST /v1/webhooks/:id/replay': byKey('admin'),
}

/** Access rules of a dialect's routes, by action. */
const BY_ACTION: Record<DialectRoute['action'], Access> = {
  submit: generates,
  read: byKeyOrToken('read'),
  follow: { by: 'link', scope: 'read', tokens: true },
  cancel: byKeyOrToken('generate'),
  list: byKey('read'),
  interrupt: byKeyOrToken('generate'),
  choose: byKey('generate'),
  describe: byKeyOrToken(),
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
