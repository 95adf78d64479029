// What a browser remembers of its user's choices. Where it may not (private windows, policies), it forgets; nothing fails.
const PREFIX = "healthd.";

// The value remembered under `key`, or `otherwise`.
export function recall(key, otherwise = null) {
  try {
    const text = localStorage.getItem(PREFIX + key);
    return text === null ? otherwise : JSON.parse(text);
  } catch {
    return otherwise;
  }
}

export function remember(key, value) {
  try {
    if (value === null) localStorage.removeItem(PREFIX + key);
    else localStorage.setItem(PREFIX + key, JSON.stringify(value));
  } catch {
    // full, or forbidden: the choice lasts as long as the page
  }
}
