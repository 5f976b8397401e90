// Stands in for the MCP server's JSON Schema validator (`alias` of wrangler.toml), a ninth of the bundle's MCP code: it validates only the
// replies to elicitations, which these tools do not send.
export class DefaultJsonSchemaValidator {
  getValidator(): never {
    throw new Error('elicitation is not supported')
  }
}
