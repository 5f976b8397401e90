// The operations for accounts, keys and tokens, for the operator, and without a credential.
import { confirmation, page as exportPage } from '../routes/account/account-data.ts'
import { credit, settings } from '../routes/account/accounts.ts'
import { change, query as keyQuery, newKey, rotation } from '../routes/account/keys.ts'
import { newToken } from '../routes/account/tokens.ts'
import { query as usageQuery } from '../routes/account/usage.ts'
import { query as jobQuery } from '../routes/operator.ts'
import type { Operation, Reply } from './operation.ts'
import * as replies from './replies.ts'

const createKeyReply = (description: string): Reply => ({ description, schema: replies.key })
const EXPORT: Reply = {
  description: 'One JSON object per line',
  content: { 'application/x-ndjson': { schema: { type: 'string' } } },
}
const DELETION: Reply = { description: 'The deletion has begun', schema: replies.deletion }
const account = { tag: 'Account' }
const keys = { tag: 'Keys', query: keyQuery }
const operator = { tag: 'Operator' }

export const ACCOUNT_OPERATIONS: Record<string, Operation> = {
  'POST /v1/tokens': {
    ...account,
    summary: 'Create a browser token',
    body: newToken,
    examples: { page: { budget_microdollars: 10_000, expires_in: 600 } },
    replies: { 201: { description: 'The token', schema: replies.token } },
  },
  'POST /v1/playground/tokens': {
    ...account,
    summary: "Create a browser token on the operator's budget",
    replies: {
      200: { description: 'The operator gives visitors no access', schema: replies.token },
      201: { description: 'The token', schema: replies.token },
    },
  },
  'GET /v1/usage': {
    ...account,
    summary: 'Usage by day, key and tier, balance and limits',
    query: usageQuery,
    replies: { 200: { description: 'The usage', schema: replies.usage } },
  },
  'GET /v1/account/export': {
    ...account,
    summary: "Export the account's data",
    query: exportPage,
    replies: { 200: EXPORT },
  },
  'DELETE /v1/account': {
    ...account,
    summary: 'Delete the account',
    query: confirmation,
    replies: { 202: DELETION },
  },
  'POST /v1/keys': {
    tag: 'Keys',
    summary: 'Create a key',
    body: newKey,
    examples: { service: { label: 'web service', scopes: ['generate', 'read'], expires_in: 86_400 } },
    replies: { 201: createKeyReply('The key, shown only once') },
    links: { read: ['GET /v1/keys/:id', 'id', '$response.body#/id'] },
  },
  'GET /v1/keys': {
    ...keys,
    summary: "List the account's keys",
    replies: { 200: { description: 'The keys', schema: replies.keys } },
  },
  'GET /v1/keys/:id': { ...keys, summary: 'A key with its usage', replies: { 200: createKeyReply('The key') } },
  'PATCH /v1/keys/:id': {
    ...keys,
    summary: 'Change label, scopes, limits or expiration',
    body: change,
    replies: { 200: createKeyReply('The changed key') },
  },
  'POST /v1/keys/:id/rotate': {
    ...keys,
    summary: 'Replace a key, with an overlap',
    body: rotation,
    isBodyOptional: true,
    replies: { 201: createKeyReply('The new key, shown only once') },
  },
  'DELETE /v1/keys/:id': { ...keys, summary: 'Revoke a key', replies: { 204: { description: 'It is revoked' } } },

  'GET /v1/accounts/:account': {
    ...operator,
    summary: 'Settings and balance of an account',
    replies: { 200: { description: 'The account', schema: replies.account } },
  },
  'PATCH /v1/accounts/:account': {
    ...operator,
    summary: 'Change limits, prepayment and retention',
    body: settings,
    replies: { 200: { description: 'The changed settings', schema: replies.account } },
  },
  'POST /v1/accounts/:account/credits': {
    ...operator,
    summary: 'Add credit, once per ID',
    body: credit,
    replies: { 200: { description: 'The credit and the balance', schema: replies.credited } },
  },
  'GET /v1/accounts/:account/export': {
    ...operator,
    summary: "Export an account's data",
    query: exportPage,
    replies: { 200: EXPORT },
  },
  'DELETE /v1/accounts/:account': {
    ...operator,
    summary: 'Delete an account',
    query: confirmation,
    replies: { 202: DELETION },
  },
  'GET /v1/operator/status': {
    ...operator,
    summary: 'GPUs, usage and cost of the day',
    replies: { 200: { description: 'The status', schema: replies.operatorStatus } },
  },
  'GET /v1/operator/jobs/:id': {
    ...operator,
    summary: "A job's report from all stores",
    query: jobQuery,
    replies: { 200: { description: 'The report', schema: replies.operatorJob } },
  },
  'GET /healthz': {
    ...operator,
    summary: 'Liveness of the worker',
    replies: { 200: { description: 'It is alive', schema: replies.health } },
  },
  'GET /.well-known/jwks.json': {
    tag: 'Jobs',
    summary: 'Public keys of receipts',
    replies: {
      200: { description: 'A JWK Set', schema: replies.jwks, type: 'application/jwk-set+json' },
    },
  },
}
