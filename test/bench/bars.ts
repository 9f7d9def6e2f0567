/**
 * Bars of measured rows, as a small SVG that is readable on a light page and on a dark one. In each row the longest bar is the
 * best peer: a rate is as long as it is high, a time as long as it is short. So a bar twice as long is twice as fast.
 */

import type { RowResult } from './row.js';
import { cellOf, formatNumber } from './tables.js';

const WIDTH = 720;
const NAMES_WIDTH = 250;
const VALUES_WIDTH = 110;
const BAR_HEIGHT = 9;
const ROW_GAP = 9;
const LEGEND_HEIGHT = 26;
const LEGEND_STEP = 105;
/** Readable on white and on black. */
const COLOURS = ['#8a8f98', '#4f8fd6', '#c08a2e', '#9a6dc6', '#4aa38f', '#7b7f5a'];
const HOLDFAST_COLOUR = '#d9534f';

function colourOf(peer: string, at: number): string {
  return peer === 'holdfast' ? HOLDFAST_COLOUR : (COLOURS[at % COLOURS.length] ?? HOLDFAST_COLOUR);
}

export function escapeXml(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('"', '&quot;');
}

/** How fast each peer is, as a part of the fastest; undefined: not measured. */
export function speeds(result: RowResult, peers: readonly string[]): (number | undefined)[] {
  const rates = peers.map((peer) => {
    const median = cellOf(result, peer)?.median;
    if (median === undefined || median <= 0) return undefined;
    return result.better === 'higher' ? median : 1 / median;
  });
  const best = Math.max(...rates.map((rate) => rate ?? 0));
  return rates.map((rate) => (rate === undefined ? undefined : rate / best));
}

/** @param peers in the order of the bars. */
export function barsSvg(title: string, results: readonly RowResult[], peers: readonly string[]): string {
  const parts: string[] = [];
  peers.forEach((peer, at) => {
    const x = 4 + at * LEGEND_STEP;
    parts.push(
      `<rect x="${x}" y="7" width="9" height="9" fill="${colourOf(peer, at)}"/>`,
      `<text x="${x + 14}" y="15">${escapeXml(peer)}</text>`,
    );
  });
  const room = WIDTH - NAMES_WIDTH - VALUES_WIDTH;
  let y = LEGEND_HEIGHT;
  for (const result of results) {
    const parted = speeds(result, peers);
    const measured = parted.filter((part) => part !== undefined).length;
    if (measured === 0) continue;
    const middle = y + (measured * BAR_HEIGHT) / 2 + 4;
    parts.push(
      `<text x="${NAMES_WIDTH - 8}" y="${middle}" text-anchor="end">${escapeXml(result.row)}</text>`,
    );
    parted.forEach((part, at) => {
      const peer = peers[at] ?? '';
      const median = cellOf(result, peer)?.median;
      if (part === undefined || median === undefined) return;
      const width = Math.max(1, part * room).toFixed(1);
      const value = `${formatNumber(median)} ${result.unit}`;
      parts.push(
        `<rect x="${NAMES_WIDTH}" y="${y}" width="${width}" height="${BAR_HEIGHT - 1}" fill="${colourOf(peer, at)}"/>`,
        `<text class="v" x="${(NAMES_WIDTH + Number(width) + 4).toFixed(1)}" y="${y + BAR_HEIGHT - 1.5}">${value}</text>`,
      );
      y += BAR_HEIGHT;
    });
    y += ROW_GAP;
  }
  const style =
    'text{font:11px sans-serif;fill:#24292f}.v{font-size:9px}@media(prefers-color-scheme:dark){text{fill:#d0d7de}}';
  const head = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${y}" width="${WIDTH}" height="${y}" role="img">`;
  const lines = [head, `<title>${escapeXml(title)}</title>`, `<style>${style}</style>`, ...parts, '</svg>'];
  return `${lines.join('\n')}\n`;
}
