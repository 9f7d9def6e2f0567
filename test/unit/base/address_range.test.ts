/** Networks that peers may come from. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AddressRange, isIn } from '../../../src/base/address_range.js';

test('a range has the addresses of its network and no others, of its own family only', () => {
  const cases: [range: string, inside: string[], outside: string[]][] = [
    [
      '10.1.0.0/16',
      ['10.1.0.0', '10.1.255.255', '::ffff:10.1.2.3'],
      ['10.2.0.0', '10.0.255.255', '::1', 'x', ''],
    ],
    ['10.1.2.3', ['10.1.2.3'], ['10.1.2.4']],
    ['0.0.0.0/0', ['255.255.255.255', '0.0.0.0'], ['::', '2001:db8::1']],
    ['2001:db8::/32', ['2001:db8::', '2001:DB8:ffff::1'], ['2001:db9::', '32.1.13.184']],
    ['::ffff:10.1.0.0/112', ['10.1.2.3', '::ffff:10.1.2.3'], ['10.2.0.0', '::1']],
    ['::1', ['::1', '0:0:0:0:0:0:0:1'], ['::2', '127.0.0.1']],
    // The bits behind the prefix say nothing.
    ['192.168.7.9/24', ['192.168.7.1'], ['192.168.8.9']],
  ];
  for (const [text, inside, outside] of cases) {
    const range = new AddressRange(text);
    for (const address of inside) assert.ok(range.includes(address), `${address} is in ${text}`);
    for (const address of outside) assert.ok(!range.includes(address), `${address} is not in ${text}`);
  }
});

test('what is no network is refused', () => {
  const bad = [
    '',
    '10.1/16',
    '10.0.0.0/33',
    '10.0.0.0/',
    '10.0.0.0/x',
    '/8',
    'host',
    '1',
    '0x7f.1',
    '::/129',
    '10.0.0.0/-1',
    '10.0.0.0/8/8',
    'fe80::1%eth0/64',
    'fe80::1%eth0',
    '::ffff:10.1.0.0/16',
    '010.0.0.0/8',
  ];
  for (const text of bad) assert.throws(() => new AddressRange(text), { code: 'EINVAL' }, text);
});

test('an address that is not known is in no range', () => {
  assert.equal(isIn([new AddressRange('0.0.0.0/0')], undefined), false);
  assert.equal(isIn([], '10.0.0.1'), false);
});
