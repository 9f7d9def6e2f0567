/** Prints results on a terminal. */

import { type Figure, goalText } from './figures.js';
import type { RowResult } from './row.js';
import {
  aligned,
  cellOf,
  cellText,
  cpuText,
  formatNumber,
  goalsText,
  ratioText,
  reasons,
  systemCallsText,
  YARDSTICKS,
} from './tables.js';

function rowsTable(results: readonly RowResult[], peers: readonly string[]): string[] {
  const yardsticks = YARDSTICKS.filter((name) => peers.includes(name));
  const header = ['row', 'unit', ...peers, ...yardsticks.map((name) => `: ${name}`), 'goals'];
  const lines = results.map((result) => [
    result.row,
    result.unit,
    ...peers.map((peer) => cellText(cellOf(result, peer))),
    ...yardsticks.map((peer) => ratioText(result, peer)),
    goalsText(result),
  ]);
  return aligned(header, lines);
}

function costTable(results: readonly RowResult[], peers: readonly string[]): string[] {
  const header = ['processor time of an operation, us: server + client + application', ...peers, ''];
  const lines = results.map((result) => [
    result.row,
    ...peers.map((peer) => cpuText(cellOf(result, peer))),
    '',
  ]);
  return aligned(header, lines);
}

function countsTable(results: readonly RowResult[], peers: readonly string[]): string[] {
  const counted = peers.filter((peer) =>
    results.some((result) => cellOf(result, peer)?.systemCalls !== undefined),
  );
  const header = [
    'of an operation',
    'RPCs of holdfast',
    ...counted.map((peer) => `system calls of ${peer}`),
    '',
  ];
  const lines = results
    .map((result) => {
      const rpcs = cellOf(result, 'holdfast')?.rpcs;
      const calls = counted.map((peer) => systemCallsText(cellOf(result, peer)));
      return [result.row, rpcs === undefined ? '' : formatNumber(rpcs), ...calls, ''];
    })
    .filter((line) => line.slice(1).some((text) => text !== ''));
  return lines.length === 0 ? [] : aligned(header, lines);
}

export function figureLines(figures: readonly Figure[]): string[] {
  const lines = figures.map((figure) => [
    figure.name,
    formatNumber(figure.holdfast),
    figure.unit,
    goalText(figure),
    figure.note ?? '',
  ]);
  return lines.length === 0 ? [] : aligned(['what', 'holdfast', 'unit', 'goal', ''], lines);
}

/** @param peers in the order of the columns. */
export function resultLines(results: readonly RowResult[], peers: readonly string[]): string[] {
  if (results.length === 0) return [];
  const blocks = [
    rowsTable(results, peers),
    costTable(results, peers),
    countsTable(results, peers),
    reasons(results),
  ];
  const isDisturbed = results.some(({ cells }) => cells.some(({ disturbed }) => disturbed > 0));
  if (isDisturbed) blocks.push(['*: other processes took processors in a round that counts']);
  return blocks.filter((block) => block.length > 0).flatMap((block) => [...block, '']);
}
