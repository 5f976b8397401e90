import { render } from 'preact'
import { App } from './app.tsx'
import { startPage } from './state/start.ts'

startPage()
render(<App />, document.body)
