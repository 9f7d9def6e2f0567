/** Finds the line of a key in a fleet's file. The parser says lines of broken TOML only. */

/** [key], [table, number, key], or a part of that. */
export type Place = readonly (string | number)[];

/** @returns the line, from 1. That of the table if the key is not there; 1 if that is not there either. */
export function lineOf(text: string, place: Place): number {
  const lines = text.split('\n');
  const [first, number, key] = place;
  if (first === undefined) return 1;
  if (typeof number !== 'number') return keyLine(lines, String(first), 0) ?? 1;
  const header = headerLine(lines, String(first), number);
  if (header === undefined) return keyLine(lines, String(first), 0) ?? 1;
  return (key === undefined ? undefined : keyLine(lines, String(key), header + 1)) ?? header + 1;
}

function headerLine(lines: readonly string[], name: string, number: number): number | undefined {
  let left = number;
  const at = lines.findIndex((line) => isHeader(line, name) && left-- === 0);
  return at < 0 ? undefined : at;
}

function isHeader(line: string, name: string): boolean {
  return new RegExp(`^\\s*\\[\\[?\\s*${escaped(name)}\\s*\\]`).test(line);
}

/** From this line on, as far as the next table. */
function keyLine(lines: readonly string[], key: string, from: number): number | undefined {
  const shape = new RegExp(`^\\s*["']?${escaped(key)}["']?\\s*=`);
  for (let at = from; at < lines.length; at++) {
    const line = lines[at] ?? '';
    if (shape.test(line) || (from === 0 && isHeader(line, key))) return at + 1;
    if (from > 0 && /^\s*\[/.test(line)) return undefined;
  }
  return undefined;
}

function escaped(text: string): string {
  return text.replace(/[^A-Za-z0-9_-]/g, '\\$&');
}
