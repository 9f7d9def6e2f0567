/** The preflight: what stands in the way of an upgrade, and what does not. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Capabilities } from '../../../../src/cli/capabilities_run.js';
import { checkRows, conditionRows, firstOf, lasting, type Seen } from '../../../../src/cli/fleet/check.js';
import type { HostFacts, Installed } from '../../../../src/cli/fleet/facts.js';
import { parseFleet } from '../../../../src/cli/fleet/file.js';
import { FEATURE } from '../../../../src/wire/session.js';
import { MOUNT_UP, SERVER_UP } from '../../../fixtures/fleet_facts.js';

const FLEET = parseFleet(
  '[[host]]\nname = "a"\n[[target]]\nlabel = "home"\nhosts = ["a"]\n[[client]]\nhost = "a"\nmountpoint = "/m"\n',
  'fleet.toml',
);

const SERVER = { ...SERVER_UP, diskFeatures: 3 };
const MOUNT = MOUNT_UP;

function can(version: string, changed: Partial<Capabilities> = {}): Capabilities {
  return {
    version: `${version}+aa`,
    protocol: { min: 1, max: 1 },
    features: FEATURE.readdirPlus | FEATURE.grants | FEATURE.replay,
    disk: { format: 1, incompatible: 3, compatible: 0 },
    mountState: [1],
    requires: {},
    ...changed,
  };
}

interface Change {
  readonly host?: Partial<Extract<HostFacts, { readonly is: 'there' }>>;
  readonly server?: Partial<typeof SERVER>;
  readonly mount?: Partial<typeof MOUNT>;
  readonly next?: Partial<Capabilities> | 'missing';
}

function seen({ host, server, mount, next = {} }: Change): Seen {
  const facts: HostFacts = {
    is: 'there',
    version: '2.0.0+aa',
    nowMs: 0,
    skewMs: 0,
    freeBytes: 2 ** 30,
    servers: { 'a:7988': { ...SERVER, ...server } },
    mounts: { '/m': { ...MOUNT, ...mount } },
    keyProblems: [],
    ...host,
  };
  const versions = new Map<string, Capabilities | string>([
    ['1.0.0', can('1.0.0')],
    ['2.0.0', next === 'missing' ? 'not found' : can('2.0.0', next)],
  ]);
  const installed: Installed = new Map([['a', versions]]);
  const first = firstOf(installed, '2.0.0');
  return { fleet: FLEET, facts: new Map([['a', facts]]), installed, wanted: () => '2.0.0', first };
}

/** What is no go. */
function wrong(change: Change): string[] {
  return checkRows(seen(change))
    .filter(({ go }) => !go)
    .map(({ is, why }) => `${is}: ${why}`);
}

test('a fleet that is well is a go', () => {
  assert.deepEqual(wrong({}), []);
});

test('each thing that stands in the way is named', () => {
  const changes: Change[] = [
    { host: { skewMs: 3000 } },
    { host: { keyProblems: ['others may read it'] } },
    { host: { freeBytes: 1 << 20 } },
    { host: { rootFreeBytes: 1 << 20 } },
    { server: { freeShare: 0.005, metaFreeBytes: 2 ** 30 } },
    { server: { freeShare: 0.5, metaFreeBytes: 1 << 20 } },
    { server: { state: 'recovering', isRecovering: true } },
    { server: { diskFeatures: 7 } },
    { mount: { importState: 'DISCON', gate: 'CLOSED' } },
    { mount: { canBeTakenOver: false, driver: 'fuse-native' } },
    { mount: { label: 'other' } },
    { next: { mountState: [2] } },
    { next: { disk: { format: 0, incompatible: 3, compatible: 0 } } },
    { next: { disk: { format: 1, incompatible: 1, compatible: 0 } } },
    { next: { features: 3 } },
    { next: { protocol: { min: 2, max: 3 } } },
    { next: { requires: { lowestPeer: '2.0.0' } } },
  ];
  assert.deepEqual(changes.map(wrong), [
    ['clock: differs by 3.0 s; set it right'],
    ['keys: others may read it'],
    ['room: 1.0 MiB free for sockets and logs, 1.0 MiB where versions lie'],
    ['room: 1.0 GiB free for sockets and logs, 1.0 MiB where versions lie'],
    ['space: data 0 % free, metadata 1.0 GiB free: remove files, or grow the devices'],
    ['space: data 50 % free, metadata 1.0 MiB free: remove files, or grow the devices'],
    ['served: recovering on a, version 1.0.0+aa', 'recovery: under way: wait for its end'],
    ['disk: 2.0.0+aa does not know all features in use (0x7)'],
    ['drains: connection DISCON, gate CLOSED: wait until the server is back'],
    ['drains: driver=fuse-native cannot be taken over: unmount, and mount again'],
    ['mounted: it mounts other, not home'],
    ['takeover: 2.0.0+aa knows no MountState of 1.0.0+aa: unmount, and mount again'],
    ['disk: 2.0.0+aa has disk format 0, 1.0.0+aa has a later one'],
    ['disk: 2.0.0+aa does not know all features in use (0x3)'],
    [
      'features: client 1.0.0+aa and server 2.0.0+aa have not in common: replay; client 2.0.0+aa and server 2.0.0+aa have not in common: replay',
    ],
    ['wire: client 1.0.0+aa and server 2.0.0+aa have no protocol in common'],
    ['wire: server 2.0.0+aa takes no client below 2.0.0, and this one is 1.0.0+aa; upgrade the client'],
  ]);
});

test('a version that is missing is no go, and a command that goes on asks only for what lasts', () => {
  const missing = wrong({ next: 'missing' });
  assert.deepEqual(missing, [
    'version 2.0.0: not found',
    'disk: 2.0.0 is missing on a',
    'takeover: a version is missing there',
  ]);
  const rows = lasting(checkRows(seen({ mount: { importState: 'DISCON' }, server: { isRecovering: true } })));
  assert.ok(rows.length > 0 && rows.every(({ go }) => go));
});

test('a version that wants clients first meets no server of its own with an old client', () => {
  assert.deepEqual(wrong({ next: { requires: { first: 'clients' }, protocol: { min: 1, max: 2 } } }), []);
  const both = wrong({ next: { requires: { first: 'clients', lowestPeer: '2.0.0' } } });
  assert.deepEqual(both, [
    'wire: client 2.0.0+aa takes no server below 2.0.0, and this one is 1.0.0+aa; upgrade the server',
  ]);
});

test('what costs speed only, and what bars the way back, is said and is no reason not to go', () => {
  const rows = checkRows(
    seen({ next: { features: FEATURE.replay, disk: { format: 1, incompatible: 19, compatible: 0 } } }),
  );
  assert.deepEqual(
    rows.filter(({ is }) => is === 'features' || is === 'disk').map(({ go, why }) => [go, why]),
    [
      [true, 'features 0x3 are known; if 2.0.0+aa begins to use 0x10, there is no way back to 1.0.0+aa'],
      [
        true,
        'client 1.0.0+aa and server 2.0.0+aa have not in common: readdirPlus, grants; ' +
          'client 2.0.0+aa and server 2.0.0+aa have not in common: readdirPlus, grants',
      ],
    ],
  );
});

test('a host that has conditions only is not looked at, and a condition that does not hold is no go', () => {
  const fleet = parseFleet(
    '[[host]]\nname = "a"\n[[host]]\nname = "watch"\n[[target]]\nlabel = "home"\nhosts = ["a"]\n' +
      '[[condition]]\nhost = "watch"\nrun = "true"\n',
    'fleet.toml',
  );
  const rows = checkRows({ ...seen({}), fleet });
  assert.deepEqual([...new Set(rows.map(({ what }) => what))], ['host a', 'target home', 'order']);
  assert.deepEqual(
    [conditionRows(FLEET, []), conditionRows(fleet, []), conditionRows(fleet, ['"true" on watch: no'])].map(
      (some) => some.map(({ go, why }) => [go, why]),
    ),
    [[], [[true, '1 of them']], [[false, '"true" on watch: no']]],
  );
});
