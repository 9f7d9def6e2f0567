/** What a row of a table shows, for terminals and pages alike. */

import { ratioTo, verdictsOf } from './goals.js';
import { type Cell, type RowResult, SIDES } from './row.js';

/** Of these peers tables show the ratio. */
export const YARDSTICKS: readonly string[] = ['ext4', 'passthrough'];
const DIGITS_BELOW = 100;

/** Three digits that count, thousands apart. */
export function formatNumber(value: number): string {
  if (value >= DIGITS_BELOW) return Math.round(value).toLocaleString('en-US');
  const decimals = value >= 10 ? 1 : value >= 1 ? 2 : 3;
  return value.toFixed(decimals);
}

/** One cell: a number, or why there is none. `*`: other processes disturbed a round that counts. */
export function cellText(cell: Cell | undefined): string {
  if (cell === undefined) return '';
  if (cell.failed !== undefined) return 'failed';
  if (cell.median === undefined) return '-';
  return `${formatNumber(cell.median)}${cell.disturbed > 0 ? '*' : ''}`;
}

export function ratioText(result: RowResult, peer: string): string {
  const ratio = ratioTo(result, peer);
  return ratio === undefined ? '' : ratio.toFixed(2);
}

export function goalsText(result: RowResult): string {
  return verdictsOf(result)
    .filter(({ met }) => met !== undefined)
    .map(({ text, met }) => `${met ? 'met' : 'MISSED'} ${text}`)
    .join(', ');
}

/** Processor time of one operation, in microseconds: server + client + application. */
export function cpuText(cell: Cell | undefined): string {
  const { cpuUs } = cell ?? {};
  return cpuUs === undefined ? '' : SIDES.map((side) => formatNumber(cpuUs[side])).join(' + ');
}

export function systemCallsText(cell: Cell | undefined): string {
  const { systemCalls } = cell ?? {};
  return systemCalls === undefined ? '' : SIDES.map((side) => formatNumber(systemCalls[side])).join(' + ');
}

export function cellOf(result: RowResult, peer: string): Cell | undefined {
  return result.cells.find((cell) => cell.peer === peer);
}

/** Why cells are empty: each reason once, with the peers and the number of their rows. */
export function reasons(results: readonly RowResult[]): string[] {
  const rows = new Map<string, string[]>();
  for (const { row, cells } of results) {
    for (const { peer, skipped, failed } of cells) {
      const why =
        failed !== undefined
          ? `${peer} failed: ${failed}`
          : skipped === undefined
            ? ''
            : `${peer}: ${skipped}`;
      if (why !== '') rows.set(why, [...(rows.get(why) ?? []), row]);
    }
  }
  return [...rows].map(([why, names]) => `${why} (${names.join('; ')})`);
}

/** Lines of columns that are as wide as their widest text; numbers at the right. */
export function aligned(header: readonly string[], lines: readonly (readonly string[])[]): string[] {
  const widths = header.map((title, at) =>
    Math.max(title.length, ...lines.map((line) => (line[at] ?? '').length)),
  );
  return [header, ...lines].map((line) =>
    widths
      .map((width, at) =>
        at === 0 || at === widths.length - 1
          ? (line[at] ?? '').padEnd(width)
          : (line[at] ?? '').padStart(width),
      )
      .join('  ')
      .trimEnd(),
  );
}
