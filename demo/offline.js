// A service worker that caches the static page, so it opens offline from the second visit on.
//
// The server's answers have priority, and update the cache; the cache is used if the server does not answer.

const CACHE = "msinet";

async function cacheAll() {
  const config = await (await fetch("config.json")).json();
  const cache = await caches.open(CACHE);
  await cache.addAll(["./", ...config.offline]);
}

async function answer(request) {
  const cache = await caches.open(CACHE);
  try {
    const response = await fetch(request);
    if (response.status === 200) {
      await cache.put(request, response.clone());
    }
    return response;
  } catch (error) {
    const cached = await cache.match(request, { ignoreSearch: true });
    if (cached) {
      return cached;
    }
    throw error;
  }
}

self.oninstall = (event) => event.waitUntil(cacheAll());
self.onactivate = (event) => event.waitUntil(self.clients.claim());
self.onfetch = (event) => {
  if (event.request.method === "GET" && event.request.url.startsWith("http")) {
    event.respondWith(answer(event.request));
  }
};
