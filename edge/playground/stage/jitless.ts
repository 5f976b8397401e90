// Imported before any schema: zod would otherwise test whether it may compile schemas with eval, which the page's policy reports.
import * as z from 'zod'

z.config({ jitless: true })
