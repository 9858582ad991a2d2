// Numbers as people read them.

const plain = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export const count = (value) => plain.format(value);

export const some = (value, one, many = `${one}s`) => `${count(value)} ${value === 1 ? one : many}`;

export function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value >= 120) return `${plain.format(value / 60)}\u00a0min`;
  if (value >= 9.95) return `${value.toFixed(0)}\u00a0s`;
  if (value >= 0.9995) return `${value.toFixed(2)}\u00a0s`;
  if (value === 0) return "0";
  const ms = value * 1000;
  return ms >= 9.95 ? `${ms.toFixed(0)}\u00a0ms` : `${ms.toFixed(1)}\u00a0ms`;
}

export function bytes(value) {
  for (const [unit, size] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) {
    if (value >= size) return `${(value / size).toPrecision(3)}\u00a0${unit}`;
  }
  return `${count(value)}\u00a0B`;
}

export const share = (part, whole) => (whole ? `${Math.round((100 * part) / whole)}\u00a0%` : "–");

export const clock = (unix) => new Date(unix * 1000).toLocaleTimeString("en-GB");

export const short = (name, most = 18) => (name.length > most ? `${name.slice(0, most - 1)}…` : name);

/** A number not below ``value`` at which an axis may end. */
export function round(value) {
  const power = 10 ** Math.floor(Math.log10(value || 1));
  return [1, 1.2, 1.6, 2, 2.4, 3, 4, 5, 6, 8, 10].find((step) => step * power >= value * 0.999) * power;
}
