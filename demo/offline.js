// A service worker: keeps the static page, so that it opens offline from the second visit on.
//
// What the server answers comes first, and replaces what was kept; what was kept is for when it does not answer.

const CACHE = "msinet";

async function keepAll() {
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
    const kept = await cache.match(request, { ignoreSearch: true });
    if (kept) {
      return kept;
    }
    throw error;
  }
}

self.oninstall = (event) => event.waitUntil(keepAll());
self.onactivate = (event) => event.waitUntil(self.clients.claim());
self.onfetch = (event) => {
  if (event.request.method === "GET" && event.request.url.startsWith("http")) {
    event.respondWith(answer(event.request));
  }
};
