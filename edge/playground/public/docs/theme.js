// The theme of the playground, as the class that Swagger UI's dark styles need.
{
  const chosen = localStorage.getItem('octet.theme')
  const isDark = chosen ? chosen === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches
  document.documentElement.classList.toggle('dark-mode', isDark)
}
