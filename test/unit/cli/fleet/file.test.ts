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
      'ssh -o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=10 -o ServerAliveCountMax=3 a',
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

test('names and addresses are nothing else for a shell, whatever is in them', () => {
  const listen = (text: string): string =>
    problem(GOOD.replace('[[client]]', `listen = ['${text}']\n[[client]]`));
  const addresses = [
    'a:7988',
    '[::1]:7988',
    'a:99999',
    'a b:1',
    'a;rm:1',
    '$(rm):1',
    '-oProxyCommand=x:1',
    'a:1"',
  ];
  assert.deepEqual(
    addresses.map((text) => [text, listen(text)]).filter(([, found]) => found !== 'none'),
    addresses.slice(2).map((text) => [text, `fleet.toml:8: "${text}" is not HOST:PORT`]),
  );
  for (const name of ['-oProxyCommand=x', 'a b', "a'b", '$HOME', '`id`', 'a\\nb', ''])
    assert.match(problem(GOOD.replace('"a"', `"${name}"`)), /^fleet\.toml:3: name has letters/, name);
  assert.equal(
    problem(GOOD.replace('"/mnt/home"', '"/mnt/\\u0000"')),
    'fleet.toml:10: a zero byte is in the text',
  );
});

test('what stands twice is refused with the line of the second', () => {
  const client = (path: string): string => `[[client]]\nhost = "a"\nmountpoint = ${path}\n`;
  const target = '[[target]]\nlabel = "other"\nhosts = ["a"]\n';
  assert.deepEqual(
    [
      problem(`${GOOD}${client('"/mnt/other/../home/"')}`),
      problem(GOOD.replace('"/mnt/home"', '["/x", "/x"]')),
      problem(`${GOOD.replace('mountpoint', 'target = "home"\nmountpoint')}${target}`),
    ],
    [
      'fleet.toml:13: there are two of the mountpoint a:/mnt/home',
      'fleet.toml:10: there are two of the mountpoint a:/x',
      'fleet.toml:12: there are two of the listen a 10.0.0.1:7988',
    ],
  );
});

test('a pair of a cluster manager says how a host begins and ends to serve', () => {
  const pair = (more: string): string =>
    GOOD.replace('hosts = ["a"]', `hosts = ["a", "b"]\n${more}`).replace(
      '[[target]]',
      '[[host]]\nname = "b"\n[[target]]',
    );
  const [target] = parseFleet(pair('standby = false\nstart = "s"\nstop = "t"'), 'f').targets;
  assert.deepEqual([target?.isManaged, target?.start, target?.stop], [true, 's', 't']);
  const wanted = 'fleet.toml:10: a pair without a standby has two hosts, start and stop';
  assert.deepEqual(
    [problem(pair('standby = false')), problem(pair('standby = 1'))],
    [wanted, 'fleet.toml:10: standby is true or false'],
  );
});

test('keys of a host are paths', () => {
  const host = (keys: string): string => GOOD.replace('[[target]]', `keys = ${keys}\n[[target]]`);
  assert.deepEqual(parseFleet(host('["/etc/k"]'), 'f').hosts[0]?.keys, ['/etc/k']);
  assert.equal(problem(host('["k"]')), 'fleet.toml:5: "k" does not begin with /');
});

test('a window may go over midnight', () => {
  const { window } = parseFleet(`window = "22:00-05:00"\n${GOOD}`, 'fleet.toml');
  assert.ok(window !== undefined);
  const inside = [21 * 60 + 59, 22 * 60, 0, 4 * 60 + 59, 5 * 60].map((minute) => isInside(window, minute));
  assert.deepEqual(inside, [false, true, true, true, false]);
});
