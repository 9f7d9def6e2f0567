/** holdfast status --locks and --opens: who holds what. */

import type { HoldingMessage, HoldingsReply } from '../wire/admin.js';
import { CliError } from './failure.js';
import { Source } from './metrics_source.js';

/** @param key key file of an administrator. */
export async function holdingsText(
  what: string | undefined,
  list: 'locks' | 'opens',
  { limit, json, key }: { readonly limit: number; readonly json?: boolean; readonly key?: string },
): Promise<string> {
  if (what === undefined) throw new CliError(`--${list} needs a mount point or a server`, 2);
  const source = await Source.open(what, key);
  try {
    const reply = await source.holdings(list, limit);
    return json === true ? JSON.stringify(reply) : table(reply, list);
  } finally {
    source.close();
  }
}

const HEAD = ['INODE', 'KIND', 'MODE', 'FOR', 'STATE', 'CLIENT', 'NAME'];

function table({ holdings, total }: HoldingsReply, list: 'locks' | 'opens'): string {
  if (total === 0) return `no ${list}`;
  const rows = [HEAD, ...holdings.map(row)];
  const widths = HEAD.map((_, at) => Math.max(...rows.map((cells) => cells[at]?.length ?? 0)));
  const lines = rows.map((cells) =>
    cells
      .map((cell, at) => cell.padEnd(widths[at] ?? 0))
      .join('  ')
      .trimEnd(),
  );
  if (total > holdings.length) lines.push(`and ${total - holdings.length} more (--limit)`);
  return lines.join('\n');
}

function row({ fid, kind, mode, client, forMs, waits, waiters, calledBack, name }: HoldingMessage): string[] {
  const state = waits ? 'waits' : calledBack === true ? 'called back' : 'held';
  return [
    fid === 0 ? '-' : String(fid),
    kind,
    mode,
    forMs === undefined ? '-' : `${(forMs / 1000).toFixed(1)} s`,
    !waits && waiters > 0 ? `${state}, ${waiters} wait` : state,
    client ?? '(server)',
    name === undefined ? '-' : JSON.stringify(name),
  ];
}
