/** What hosts answer is believed only in the shape that it should have. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { capabilities } from '../../../../src/cli/capabilities_run.js';
import { decodeAnswer, decodeCapabilities, isVersion } from '../../../../src/cli/fleet/decode.js';
import { MOUNT_UP, SERVER_UP } from '../../../fixtures/fleet_facts.js';

const MOUNT = { ...MOUNT_UP, pauses: [{ ms: 1, agoMs: 2, calls: 3 }] };
const ANSWER = {
  version: '1.0.0+aa',
  nowMs: 1,
  freeBytes: 1,
  servers: { x: SERVER_UP, y: { is: 'down', why: 'gone' } },
  mounts: { '/m': MOUNT },
  keyProblems: [],
};

test('a version has the letters of one, so it leads nowhere else as a part of a path', () => {
  const given = ['1.2.3', '1.2.3-rc.1+ab12', '../1.2.3', '1.2.3/../x', '1.2.3+a/b', '1.2', '', 3, undefined];
  assert.deepEqual(given.filter(isVersion), ['1.2.3', '1.2.3-rc.1+ab12']);
});

test('an answer is taken as it is, with fields of later versions', () => {
  const later = { ...ANSWER, more: 1 };
  assert.equal(decodeAnswer(later), later);
  const own = capabilities();
  assert.equal(decodeCapabilities(own), own);
});

test('an answer that lacks something, or names another place as its version, is none', () => {
  const wrong: unknown[] = [
    undefined,
    null,
    [],
    'text',
    { ...ANSWER, nowMs: 'now' },
    { ...ANSWER, version: '../../tmp/x' },
    { ...ANSWER, servers: { x: { ...SERVER_UP, version: '../../tmp/x' } } },
    { ...ANSWER, servers: { x: {} } },
    { ...ANSWER, mounts: { '/m': { ...MOUNT, version: '1.0.0/..' } } },
    { ...ANSWER, mounts: { '/m': { ...MOUNT, pauses: [{}] } } },
    { ...ANSWER, keyProblems: 'none' },
    { ...ANSWER, can: {} },
  ];
  assert.deepEqual(
    wrong.map(decodeAnswer),
    wrong.map(() => undefined),
  );
  const unable: unknown[] = [
    {},
    { ...capabilities(), protocol: 1 },
    { ...capabilities(), mountState: ['1'] },
  ];
  assert.deepEqual(
    unable.map(decodeCapabilities),
    unable.map(() => undefined),
  );
});
