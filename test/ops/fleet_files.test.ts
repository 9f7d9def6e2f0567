/** The examples of mount/fleet: the fleet command takes them, and Ansible the play. */

import assert from 'node:assert/strict';
import { join } from 'node:path';
import test from 'node:test';
import { packageRoot } from '../../native/binding.js';
import { readFleet } from '../../src/cli/fleet/file.js';
import { runOk } from '../fixtures/child.js';
import { lacks } from './programs.js';

const folder = join(packageRoot(), 'mount', 'fleet');

test('the examples of fleets are right', () => {
  const [systemd, pacemaker] = ['systemd', 'pacemaker'].map((name) =>
    readFleet(join(folder, `${name}.toml`)),
  );
  assert.deepEqual(
    [systemd, pacemaker].map((fleet) => fleet?.targets.map(({ label, isManaged }) => [label, isManaged])),
    [
      [
        ['home', false],
        ['scratch', false],
      ],
      [['home', true]],
    ],
  );
  assert.equal(systemd?.clients.length, 3);
});

test('Ansible takes the play', {
  skip: lacks('ansible-playbook', 'ansible-core'),
}, async () => {
  await runOk('ansible-playbook', ['--syntax-check', '-i', 'localhost,', join(folder, 'playbook.yml')], {
    timeoutMs: 120_000,
  });
});
