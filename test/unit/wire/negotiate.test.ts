/** Which peers a version does not take. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isBelow, tooOld } from '../../../src/wire/negotiate.js';

test('versions are compared by their numbers, without the digest', () => {
  const pairs = [
    ['0.9.0+ff', '0.10.0'],
    ['0.10.0', '0.9.0'],
    ['1.0.0+aa', '1.0.0'],
    ['1.2.3', '2.0.0'],
    ['unknown', '1.0.0'],
  ] as const;
  assert.deepEqual(
    pairs.map(([version, other]) => isBelow(version, other)),
    [true, false, false, true, false],
  );
});

test('a peer below the lowest is refused with a line that names whom to upgrade', () => {
  const client = { is: 'client', softwareVersion: '0.2.0+aa' } as const;
  assert.deepEqual(
    [
      tooOld('0.3.0', client, '0.4.0'),
      tooOld('0.3.0', { is: 'server', softwareVersion: '0.2.0' }, '0.4.0'),
      tooOld('0.2.0', client, '0.4.0'),
      tooOld(undefined, client, '0.4.0'),
    ],
    [
      'server 0.4.0 takes no client below 0.3.0, and this one is 0.2.0+aa; upgrade the client',
      'client 0.4.0 takes no server below 0.3.0, and this one is 0.2.0; upgrade the server',
      undefined,
      undefined,
    ],
  );
});
