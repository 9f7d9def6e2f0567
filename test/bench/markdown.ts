/** Parts of docs/MEASURED.md between marks, and their bars in docs/measured/: what `npm run bench -- --markdown` writes. */

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { packageRoot } from '../../native/binding.js';
import { withPart } from '../fixtures/generated_page.js';
import { barsSvg } from './bars.js';
import { type Figure, goalText } from './figures.js';
import type { Measured } from './main_table.js';
import type { Table } from './options.js';
import { SHARES_HEADER } from './profile_shares.js';
import type { RowResult } from './row.js';
import {
  cellOf,
  cellText,
  cpuText,
  formatNumber,
  goalsText,
  ratioText,
  reasons,
  YARDSTICKS,
} from './tables.js';

const PAGE = 'MEASURED.md';
const FOLDER = 'measured';

export interface Page {
  /** The part between the marks. */
  readonly part: string;
  /** Name and content of each file in docs/measured/. */
  readonly pictures: ReadonlyMap<string, string>;
}

function table(header: readonly string[], lines: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((text) => text.replaceAll('|', '\\|')).join(' | ')} |`;
  return [line(header), `|${header.map(() => '---|').join('')}`, ...lines.map(line)].join('\n');
}

function groupPart(results: readonly RowResult[], peers: readonly string[]): string {
  const yardsticks = YARDSTICKS.filter((peer) => peers.includes(peer));
  const header = ['row', 'unit', ...peers, ...yardsticks.map((peer) => `to ${peer}`), 'goals'];
  return table(
    header,
    results.map((result) => [
      result.row,
      result.unit,
      ...peers.map((peer) => cellText(cellOf(result, peer))),
      ...yardsticks.map((peer) => ratioText(result, peer)),
      goalsText(result),
    ]),
  );
}

function costPart(results: readonly RowResult[], peers: readonly string[]): string {
  const header = ['processor time of an operation, us', ...peers, 'RPCs of holdfast'];
  return table(
    header,
    results.map((result) => {
      const rpcs = cellOf(result, 'holdfast')?.rpcs;
      const costs = peers.map((peer) => cpuText(cellOf(result, peer)));
      return [result.row, ...costs, rpcs === undefined ? '' : formatNumber(rpcs)];
    }),
  );
}

function figuresPart(figures: readonly Figure[]): string {
  return table(
    ['what', 'Holdfast', 'goal', 'with'],
    figures.map((figure) => [
      figure.name,
      `${formatNumber(figure.holdfast)} ${figure.unit}`.trim(),
      goalText(figure),
      figure.note ?? '',
    ]),
  );
}

/** @param about the machine and the run, for the first line. */
export function pageOf(name: Table, about: string, { results, figures, peers, missing }: Measured): Page {
  const pictures = new Map<string, string>();
  const blocks = [`${about}.`];
  const groups = [...new Set(results.map(({ group }) => group))];
  for (const group of groups) {
    const ofGroup = results.filter((result) => result.group === group);
    const file = `${name}-${group.replaceAll(' ', '-')}.svg`;
    pictures.set(file, barsSvg(`${name}: ${group}`, ofGroup, peers));
    blocks.push(
      `### ${group[0]?.toUpperCase()}${group.slice(1)}`,
      `![bars: longer is faster](${FOLDER}/${file})`,
    );
    blocks.push(groupPart(ofGroup, peers));
  }
  if (results.length > 0) {
    blocks.push('### Processor time', 'Server + client + application, without the threads of the kernel.');
    blocks.push(costPart(results, peers));
  }
  if (figures.length > 0) blocks.push(figuresPart(figures));
  const notes = [...missing, ...reasons(results)];
  if (results.some(({ cells }) => cells.some(({ disturbed }) => disturbed > 0)))
    notes.push('*: other processes took processors in a round that counts');
  if (notes.length > 0) blocks.push(notes.map((note) => `- ${note.replaceAll('*', '\\*')}`).join('\n'));
  return { part: `${blocks.join('\n\n')}\n`, pictures };
}

/** @param lines those of shareLines(). */
export function profilePage(lines: readonly (readonly string[])[]): Page {
  return { part: `${table(SHARES_HEADER, lines)}\n`, pictures: new Map() };
}

export function writePage(name: Table | 'profile', page: Page): void {
  const docs = join(packageRoot(), 'docs');
  const path = join(docs, PAGE);
  writeFileSync(path, withPart(PAGE, readFileSync(path, 'utf8'), name, page.part));
  if (page.pictures.size > 0) mkdirSync(join(docs, FOLDER), { recursive: true });
  for (const [file, svg] of page.pictures) writeFileSync(join(docs, FOLDER, file), svg);
}
