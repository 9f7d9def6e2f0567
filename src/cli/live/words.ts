/** Times and numbers as the live pages say them. Pure: the browser has this file too. */

/** 12 us, 3.4 ms, 0.4 s, 12 s, 3 min 5 s, 2 h 10 min, 3 d 4 h. */
export function timeText(ms: number): string {
  if (ms <= 0) return '0 s';
  if (ms < 1) return `${Math.max(1, Math.round(ms * 1000))} us`;
  if (ms < 100) return `${ms.toFixed(1)} ms`;
  if (ms < 10_000) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return pair(Math.floor(seconds / 60), 'min', seconds % 60, 's');
  const minutes = Math.floor(seconds / 60);
  if (minutes < 24 * 60) return pair(Math.floor(minutes / 60), 'h', minutes % 60, 'min');
  const hours = Math.floor(minutes / 60);
  return pair(Math.floor(hours / 24), 'd', hours % 24, 'h');
}

function pair(big: number, bigUnit: string, small: number, smallUnit: string): string {
  return small === 0 ? `${big} ${bigUnit}` : `${big} ${bigUnit} ${small} ${smallUnit}`;
}

/** 7, 1.2 k, 3.4 M: for the axis of a chart. */
export function shortNumber(value: number): string {
  if (value >= 1e6) return `${trimmed(value / 1e6)} M`;
  if (value >= 10_000) return `${trimmed(value / 1000)} k`;
  return trimmed(value);
}

function trimmed(value: number): string {
  if (value === 0) return '0';
  return value >= 100 ? String(Math.round(value)) : String(Number(value.toPrecision(2)));
}
