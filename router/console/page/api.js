// Asking the router. The key is this tab's: it is sent as a header, and is in no address and no cookie.

const KEY = "baton-key";

export class KeyNeeded extends Error {}

export const hasKey = () => sessionStorage.getItem(KEY) !== null;
export const keepKey = (key) => sessionStorage.setItem(KEY, key);
export const forgetKey = () => sessionStorage.removeItem(KEY);

/** The state of whichever router answers, of the model that the page's address names, if it does. Throws KeyNeeded where it wants a key, or
 * another one. */
export async function ask() {
  const key = sessionStorage.getItem(KEY);
  const answer = await fetch(`v1/baton/console${location.search}`, {
    headers: key === null ? {} : { authorization: `Bearer ${key}` },
    cache: "no-store",
    credentials: "omit",
    signal: AbortSignal.timeout(5000),
  });
  if (answer.status === 401) throw new KeyNeeded();
  if (!answer.ok) throw new Error(`it answers ${answer.status}`);
  return answer.json();
}
