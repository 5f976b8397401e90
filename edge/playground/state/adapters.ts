// Compatibility of adapters with offers, from GET /v1/models.

type ListedModel = {
  octet: readonly { route: string; tier: string }[]
  octet_loras: readonly { id: string; tiers: readonly string[] }[]
}

/** Whether an adapter is compatible with an offer on each of these routes. */
export const fitsRoutes = (adapter: string, routes: readonly string[], models: readonly ListedModel[]): boolean =>
  routes.every((route) =>
    models.some(({ octet, octet_loras }) => {
      const tiers = octet_loras.find(({ id }) => id === adapter)?.tiers ?? []
      return octet.some((offer) => offer.route === route && tiers.includes(offer.tier))
    }),
  )
