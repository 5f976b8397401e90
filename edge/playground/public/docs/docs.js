// The key of the playground's tab, so that requests can be tried from here.
const key = sessionStorage.getItem('octet.key')

SwaggerUIBundle({
  url: '/openapi.json',
  dom_id: '#reference',
  deepLinking: true,
  docExpansion: 'list',
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  filter: true,
  tryItOutEnabled: true,
  validatorUrl: null,
  onComplete() {
    if (key) this.ui?.preauthorizeApiKey('key', key)
  },
})
