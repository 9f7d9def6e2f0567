/** The plan of a fleet is made from what is seen: each thing that has happened takes its step away, in an order that keeps targets served. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Facts, HostFacts, MountFact, ServerFact } from '../../../../src/cli/fleet/facts.js';
import { type Fleet, parseFleet } from '../../../../src/cli/fleet/file.js';
import {
  batchesOf,
  describeStep,
  fallbackStarts,
  isDone,
  orderProblems,
  stepsOf,
  type Unit,
  unitsOf,
} from '../../../../src/cli/fleet/plan.js';
import { MOUNT_UP } from '../../../fixtures/fleet_facts.js';

const TEXT = `
[[host]]
name = "a"
[[host]]
name = "b"
[[host]]
name = "c"
[[group]]
name = "late"
after = ["early"]
at_once = 2
[[group]]
name = "early"
[[target]]
label = "home"
hosts = ["a", "b"]
group = "early"
[[client]]
host = "c"
mountpoint = ["/m1", "/m2", "/m3"]
group = "late"
`;

function fleet(text = TEXT): Fleet {
  return parseFleet(text, 'fleet.toml');
}

function unit(key: string): Unit {
  const found = unitsOf(fleet()).find((one) => one.key === key);
  assert.ok(found !== undefined);
  return found;
}

const DOWN: ServerFact = { is: 'down', why: 'nobody answers' };

function server(state: 'active' | 'standby' | 'draining', version: string): ServerFact {
  return {
    is: 'up',
    state,
    version: `${version}+0123456789ab`,
    label: 'home',
    instance: 1,
    isRecovering: false,
    evicted: [],
  };
}

function facts(a: ServerFact, b: ServerFact): Facts {
  const host = (servers: Record<string, ServerFact>): HostFacts => ({
    is: 'there',
    version: '2.0.0',
    nowMs: 0,
    skewMs: 0,
    freeBytes: 0,
    servers,
    mounts: {},
    keyProblems: [],
  });
  return new Map([
    ['a', host({ 'a:7988': a })],
    ['b', host({ 'b:7988': b })],
  ]);
}

function steps(a: ServerFact, b: ServerFact): string[] {
  return stepsOf(unit('target home'), facts(a, b), '2.0.0').map((step) =>
    step.do === 'takeover' ? 'takeover' : `${step.do} ${step.place.host}`,
  );
}

test('a pair gets a standby of the version before its server is shut down, and then a second one', () => {
  const [old, fresh] = ['1.0.0', '2.0.0'];
  assert.deepEqual(
    [
      steps(server('active', old), server('standby', old)),
      steps(server('active', old), DOWN),
      steps(server('active', old), server('standby', fresh)),
      steps(server('draining', old), server('standby', fresh)),
      steps(DOWN, server('active', fresh)),
      steps(server('standby', old), server('active', fresh)),
      steps(server('standby', fresh), server('active', fresh)),
      steps(DOWN, DOWN),
    ],
    [
      ['endStandby b', 'start b', 'shutdown a', 'start a'],
      ['start b', 'shutdown a', 'start a'],
      ['shutdown a', 'start a'],
      ['shutdown a', 'start a'],
      ['start a'],
      ['endStandby a', 'start a'],
      [],
      ['start a', 'start b'],
    ],
  );
});

test('in no state of a pair the server is shut down before the other host has a standby of the version', () => {
  const all = [
    DOWN,
    ...(['active', 'standby', 'draining'] as const).flatMap((state) => [
      server(state, '1.0.0'),
      server(state, '2.0.0'),
    ]),
  ];
  for (const a of all) {
    for (const b of all) {
      const [first] = steps(a, b);
      if (first !== 'shutdown a' && first !== 'shutdown b') continue;
      const other = first === 'shutdown a' ? b : a;
      assert.ok(other.is === 'up' && other.version.startsWith('2.0.0'), JSON.stringify([a, b]));
    }
  }
});

test('a shutdown is done when the partner serves, and a start when the server stands by or serves', () => {
  const [shutdown] = stepsOf(
    unit('target home'),
    facts(server('active', '1.0.0'), server('standby', '2.0.0')),
    '2.0.0',
  );
  const [start] = stepsOf(unit('target home'), facts(DOWN, server('active', '2.0.0')), '2.0.0');
  assert.ok(shutdown !== undefined && start !== undefined);
  assert.deepEqual(
    [
      isDone(shutdown, facts(DOWN, server('standby', '2.0.0'))),
      isDone(shutdown, facts(DOWN, server('active', '2.0.0'))),
      isDone(start, facts(DOWN, server('active', '2.0.0'))),
      isDone(start, facts(server('standby', '2.0.0'), server('active', '2.0.0'))),
    ],
    [false, true, false, true],
  );
});

test('of a pair that a cluster manager has, a host may serve when it has the version, and there is no standby', () => {
  const managed = fleet(
    TEXT.replace('hosts = ["a", "b"]', 'hosts = ["a", "b"]\nstandby = false\nstart = "s"\nstop = "t"'),
  );
  const [target] = unitsOf(managed);
  assert.ok(target !== undefined);
  const inUse = (seen: Facts, a: string, b: string): Facts =>
    new Map([...seen].map(([host, fact]) => [host, { ...fact, inUse: host === 'a' ? a : b }]));
  const left = (a: ServerFact, b: ServerFact, ofA: string, ofB: string): string[] =>
    stepsOf(target, inUse(facts(a, b), ofA, ofB), '2.0.0').map((step) =>
      step.do === 'takeover' ? 'takeover' : `${step.do} ${step.place.host}`,
    );
  const [old, fresh] = ['1.0.0', '2.0.0'];
  assert.deepEqual(
    [
      left(server('active', old), DOWN, old, old),
      left(server('active', old), DOWN, old, fresh),
      left(DOWN, server('active', fresh), old, fresh),
      left(DOWN, server('active', fresh), fresh, fresh),
      left(server('active', fresh), DOWN, fresh, old),
      left(DOWN, DOWN, old, fresh),
    ],
    [
      ['ready b', 'shutdown a', 'ready a'],
      ['shutdown a', 'ready a'],
      ['ready a'],
      [],
      ['ready b'],
      ['ready a'],
    ],
  );
  const [ready] = stepsOf(target, inUse(facts(server('active', old), DOWN), old, old), fresh);
  assert.ok(ready !== undefined);
  const isReady = (b: string): boolean => isDone(ready, inUse(facts(server('active', old), DOWN), old, b));
  assert.deepEqual([isReady(old), isReady(fresh)], [false, true]);
});

test('after a step that failed the version before starts where nobody serves, or where its standby is missing', () => {
  const [old, fresh] = ['1.0.0', '2.0.0'];
  const [, startB, shutdownA, startA] = stepsOf(
    unit('target home'),
    facts(server('active', old), server('standby', old)),
    fresh,
  );
  const starts = (step: typeof startB, a: ServerFact, b: ServerFact, version = old) => {
    assert.ok(step !== undefined && step.do !== 'takeover');
    const all = fallbackStarts(step, facts(a, b), version);
    return all.map(({ place, version: its }) => `${place.host} ${its}`);
  };
  assert.deepEqual(
    [
      starts(startB, server('active', old), DOWN),
      starts(startB, server('active', old), server('standby', fresh)),
      starts(startA, DOWN, server('active', fresh)),
      starts(shutdownA, DOWN, server('standby', fresh)),
      starts(shutdownA, DOWN, DOWN),
      starts(shutdownA, server('active', old), server('standby', fresh)),
      starts(startA, DOWN, DOWN, fresh),
    ],
    [['b 1.0.0'], [], [], ['a 1.0.0'], ['a 1.0.0', 'b 1.0.0'], [], []],
  );
});

test('a client is taken over unless it has the version', () => {
  const client = unit('client c:/m1');
  const seen = (mount: MountFact): string[] => {
    const host: HostFacts = {
      is: 'there',
      version: '2.0.0',
      nowMs: 0,
      skewMs: 0,
      freeBytes: 0,
      servers: {},
      mounts: { '/m1': mount },
      keyProblems: [],
    };
    return stepsOf(client, new Map([['c', host]]), '2.0.0').map(describeStep);
  };
  const mount = (version: string): MountFact => ({ ...MOUNT_UP, version });
  assert.deepEqual([seen(mount('1.0.0+aa')), seen(mount('2.0.0+bb'))], [['c: 2.0.0 takes over /m1'], []]);
});

test('groups go in their order, clients in batches, and all of it backwards for a rollback', () => {
  const keys = (back: boolean): string[][] =>
    batchesOf(fleet(), 'servers', back).map(({ units }) => units.map(({ key }) => key));
  const up = [['target home'], ['client c:/m1', 'client c:/m2'], ['client c:/m3']];
  assert.deepEqual([keys(false), keys(true)], [up, up.toReversed()]);
});

test('an order of groups that lets the wrong ones go first is named', () => {
  assert.deepEqual(orderProblems(fleet(), 'servers'), []);
  const [first = ''] = orderProblems(fleet(), 'clients');
  assert.equal(
    first,
    'c:/m1 is in group late and its target home in early; clients go first, so group early has to come after late',
  );
});
