/** What becomes of a client that connects: the table of docs/recovery/window.md, and what comes before it. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  type ConnectDecision,
  decideConnect,
  type KnownOfClient,
  type SaidByClient,
} from '../../../../src/server/session/connect_outcome.js';
import { assertPrinted } from '../../../fixtures/generated_page.js';

const SERVERS: readonly KnownOfClient['server'][] = ['open', 'draining', 'closed'];
const HAS: readonly KnownOfClient['has'][] = ['export', 'undrained export', 'record', 'nothing'];
const CAME_FROM: readonly SaidByClient['cameFrom'][] = [
  'nowhere',
  'this instance',
  'the one it recovered from',
  'another instance',
];

interface Pair {
  readonly known: KnownOfClient;
  readonly said: SaidByClient;
}

/** Every pair; without an export there is no instance that it recovered from. */
function pairs(known: Partial<KnownOfClient> = {}, said: Partial<SaidByClient> = {}): Pair[] {
  return SERVERS.flatMap((server) =>
    HAS.flatMap((has) =>
      CAME_FROM.filter((cameFrom) => has.endsWith('export') || cameFrom !== 'the one it recovered from').map(
        (cameFrom) => ({
          known: { server, has, hasLater: false, isWriting: false, ...known },
          said: { cameFrom, isTheClient: true, ...said },
        }),
      ),
    ),
  );
}

const decide = ({ known, said }: Pair): ConnectDecision => decideConnect(known, said);

function outcomeText(decision: ConnectDecision): string {
  switch (decision.do) {
    case 'refuse':
      return decision.code;
    case 'wait':
      return 'wait';
    case 'resume':
      return 'resumed';
    case 'recoverAgain':
      return 'recover again';
    case 'begin':
      return 'new';
    case 'recover':
      return 'recover';
    case 'evicted':
      return decision.evicts ? 'evicted (evict now)' : 'evicted';
  }
}

/** The same for every pair that a flag is set of. */
function always(known: Partial<KnownOfClient>, said: Partial<SaidByClient> = {}): string {
  const outcomes = new Set(pairs(known, said).map((pair) => outcomeText(decide(pair))));
  assert.equal(outcomes.size, 1, [...outcomes].join(', '));
  return [...outcomes].join();
}

function table(): string {
  const lines = [
    '| the server has | the client was last in | open: active or recovering | draining | neither |',
    '|---|---|---|---|---|',
    `| a secret that the client does not say | | ${[1, 2, 3].map(() => always({}, { isTheClient: false })).join(' | ')} |`,
    `| a later connection of the client | | ${[1, 2, 3].map(() => always({ hasLater: true })).join(' | ')} |`,
    `| writes of the client under way, after its eviction or goodbye | | ${[1, 2, 3].map(() => always({ isWriting: true })).join(' | ')} |`,
  ];
  for (const { known, said } of pairs().filter((pair) => pair.known.server === 'open')) {
    const cells = SERVERS.map((server) => outcomeText(decide({ known: { ...known, server }, said })));
    const has = {
      export: 'its export',
      'undrained export': 'its export, undrained',
      record: 'its record',
      nothing: 'nothing',
    };
    lines.push(`| ${has[known.has]} | ${said.cameFrom} | ${cells.join(' | ')} |`);
  }
  return `${lines.join('\n')}\n`;
}

test('the table in docs/recovery/window.md is that of the code', () => {
  assertPrinted('recovery/window.md', 'connect outcomes', table());
});

test('a peer that does not know the secret is refused before anything else is looked at', () => {
  for (const hasLater of [false, true]) {
    for (const isWriting of [false, true]) {
      for (const pair of pairs({ hasLater, isWriting }, { isTheClient: false })) {
        assert.deepEqual(decide(pair), { do: 'refuse', code: 'EACCES' });
      }
    }
  }
});

test('only a client that has an export is resumed, and only by the instance that it was in', () => {
  for (const pair of pairs()) {
    if (decide(pair).do !== 'resume') continue;
    assert.deepEqual([pair.known.has.endsWith('export'), pair.said.cameFrom], [true, 'this instance']);
  }
});

test('what is taken from a client is there', () => {
  for (const pair of pairs()) {
    const decision = decide(pair);
    const takes =
      (decision.do === 'begin' && decision.leaves) || (decision.do === 'evicted' && decision.evicts);
    if (takes) assert.ok(pair.known.has.endsWith('export'));
    if (decision.do === 'recover') assert.equal(pair.known.has, 'record');
  }
});
