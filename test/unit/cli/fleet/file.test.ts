/** The file of a fleet: its defaults, and what is said about a wrong one. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseFleet } from '../../../../src/cli/fleet/file.js';
import { isInside } from '../../../../src/cli/fleet/window.js';

const GOOD = `
[[host]]
name = "a"
address = "10.0.0.1"
[[target]]
label = "home"
hosts = ["a"]
[[client]]
host = "a"
mountpoint = "/mnt/home"
`;

function problem(text: string): string {
  try {
    parseFleet(text, 'fleet.toml');
  } catch (thrown) {
    return (thrown as Error).message;
  }
  return 'none';
}

test('a short file is filled in', () => {
  const { targets, clients, groups, hosts, statePath, root } = parseFleet(GOOD, '/etc/fleet.toml');
  assert.deepEqual(
    [targets[0]?.servers, clients[0]?.target, groups.map(({ name }) => name), hosts[0]?.run, statePath, root],
    [
      [{ host: 'a', listen: '10.0.0.1:7988' }],
      'home',
      ['all'],
      'ssh a',
      '/etc/fleet.toml.state.json',
      '/opt/holdfast-{version}',
    ],
  );
});

test('a wrong file is refused with the line, and with what is allowed', () => {
  assert.deepEqual(
    [
      problem(`${GOOD}colour = "red"\n`),
      problem(`${GOOD}group = "west"\n`),
      problem(GOOD.replace('hosts = ["a"]', 'hosts = ["b"]')),
      problem(GOOD.replace('"/mnt/home"', '"mnt"')),
      problem(`window = "22-5"\n${GOOD}`),
      problem(`root = "/opt/holdfast"\n${GOOD}`),
      problem(GOOD.replace('name = "a"', 'name = "a; rm"')),
      problem(''),
    ],
    [
      'fleet.toml:11: there is no key colour here; there are: host, mountpoint, target, group',
      'fleet.toml:11: there is no group west; there are: all',
      'fleet.toml:7: there is no host b; there are: a',
      'fleet.toml:10: "mnt" does not begin with /',
      'fleet.toml:1: window is two times of the day, as "22:00-05:00"',
      'fleet.toml:1: root begins with / and has {version}, as "/opt/holdfast-{version}"',
      'fleet.toml:3: name has letters, digits and . _ : @ % - only, and begins with a letter or a digit',
      'fleet.toml:1: there is no [[host]]',
    ],
  );
  assert.match(problem('[[host]]\nname = \n'), /^fleet\.toml:2: no TOML: /);
  const circle = '[[group]]\nname = "x"\nafter = ["y"]\n[[group]]\nname = "y"\nafter = ["x"]\n';
  assert.equal(problem(`${circle}${GOOD}`), 'fleet.toml:3: these wait for each other: x, y');
});

test('a window may go over midnight', () => {
  const { window } = parseFleet(`window = "22:00-05:00"\n${GOOD}`, 'fleet.toml');
  assert.ok(window !== undefined);
  const inside = [21 * 60 + 59, 22 * 60, 0, 4 * 60 + 59, 5 * 60].map((minute) => isInside(window, minute));
  assert.deepEqual(inside, [false, true, true, true, false]);
});
