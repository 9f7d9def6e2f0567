/** Where a process serves its metrics, as the user names it. */

/** HOST:PORT, [V6]:PORT, PORT (loopback), unix:/PATH. @returns undefined for anything else; host is the path of a Unix socket. */
export function parseMetricsAddress(
  text: string,
): { readonly host: string; readonly port: number } | undefined {
  const [, path] = /^unix:(\/.+)$/.exec(text) ?? [];
  if (path !== undefined) return { host: path, port: 0 };
  const match = /^(?:(?:\[([0-9a-fA-F:.]+)\]|([^:[\]\s]+)):)?(\d{1,5})$/.exec(text);
  if (match === null || Number(match[3]) > 65_535) return undefined;
  return { host: match[1] ?? match[2] ?? '127.0.0.1', port: Number(match[3]) };
}
