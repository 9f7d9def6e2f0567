/** docs/start/TROUBLE.md: everything in its tables is provoked, and says what the page shows. */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { packageRoot } from '../../native/binding.js';
import { isShown } from '../fixtures/page_script.js';
import { type PageHost, PageWorld } from '../fixtures/page_world.js';
import { until } from '../fixtures/until.js';

const LIMIT_MS = 480_000;
const EVENT_MS = 120_000;

const DEVICES = '--meta /dev/vg/home-meta --data /dev/vg/home-data';
const SERVE = `holdfast serve ${DEVICES} --listen 10.0.0.1:7988 >>/var/log/holdfast-home.log 2>&1 &`;
const PID = `holdfast status /mnt/home --json | sed 's/.*"pid":\\([0-9]*\\).*/\\1/'`;

/** In their order. `until`: the commands are repeated until they say it, for what happens in another process. */
const CASES: readonly {
  readonly host: PageHost;
  readonly commands: string;
  /** First cells of the page: each is shown by a line of what the commands print. */
  readonly says: readonly string[];
  readonly until?: true;
}[] = [
  {
    host: 'a',
    commands: `holdfast mkfs ${DEVICES} --label home; holdfast mkfs ${DEVICES}
      holdfast serve --meta /dev/vg/home-data --data /dev/vg/home-meta`,
    says: [
      '… nothing was changed, --force destroys it',
      '… is a Holdfast data device; it was given as the meta device',
    ],
  },
  {
    // Both wait for ten seconds: their answers are looked at later.
    host: 'b',
    commands: `mkdir -p /mnt/home /mnt/other
      holdfast mount 10.0.0.2:7999 /mnt/home >/root/silent 2>&1 &
      holdfast mount nosuch /mnt/other >/root/nosuch 2>&1 &
      holdfast mount 10.0.0.2:7999 /mnt/missing`,
    says: ['… mount point … does not exist; make it first: …'],
  },
  {
    host: 'a',
    commands: `mkdir -p /mnt/home; ${SERVE}\nserver=$!\nholdfast mount home /mnt/home; holdfast mount home /mnt/home`,
    says: ['… is busy: … is mounted there…'],
  },
  {
    host: 'b',
    commands: `holdfast serve ${DEVICES} --listen 10.0.0.2:7988`,
    says: ['… is in use: a server on … (pid …) has it since …'],
  },
  {
    host: 'a',
    commands: `for name in web1 gone; do
        holdfast access add $name --output $name.key
        ssh root@10.0.0.11 "install -D -m 600 /dev/stdin /root/$name.key" <$name.key
      done
      holdfast access remove gone`,
    says: [],
  },
  {
    host: 'web1',
    commands: `mkdir /mnt/home
      holdfast mount 10.0.0.1 /mnt/home
      holdfast mount -o key=gone.key 10.0.0.1 /mnt/home
      chmod 644 gone.key; holdfast mount -o key=gone.key 10.0.0.1 /mnt/home
      holdfast mount -o key=web1.key 10.0.0.1 /mnt/home
      touch /mnt/home/file
      holdfast umount /mnt/home
      install -D -m 600 web1.key /etc/holdfast/home.key; holdfast shutdown 10.0.0.1:7988`,
    says: [
      '… needs a key: make one on the server…',
      '… does not know the key …',
      '… others may read the key file …',
      'touch: … Permission denied',
      '… this needs an administrator: …',
    ],
  },
  {
    host: 'a',
    commands: `exec 7<>/mnt/home/file; echo one >&7
      holdfast umount /mnt/home
      holdfast evict a:/mnt/home
      cat <&7; exec 7>&-
      head -c 130M /dev/zero >/mnt/home/large; rm /mnt/home/large`,
    says: [
      '… is in use by …; end them, or holdfast umount --lazy …',
      '…Input/output error',
      '…No space left on device',
    ],
  },
  { host: 'a', commands: 'holdfast takeover /mnt/home --with /opt/none', says: ['… has no Holdfast: …'] },
  {
    host: 'a',
    commands: `printf '[[host]]\\nname = "a"\\naddress = "10.0.0.1"\\n[[target]]\\nlabel = "home"\\nhosts = ["a"]\\n' >fleet.toml
      sed -i '1i run = "ssh root@{address}"' fleet.toml
      holdfast fleet fleet.toml upgrade --to 9.9.9`,
    says: ['holdfast: no go: …'],
  },
  {
    host: 'a',
    commands: `kill -KILL $server
      cat /mnt/home/nosuch >/root/waited 2>&1 & waiting=$!
      /opt/holdfast-0.3.0/bin/holdfast serve ${DEVICES} --listen 10.0.0.1:7988`,
    says: ['… which left no clean mark, and this is version …'],
  },
  {
    host: 'a',
    commands: 'cat /run/holdfast/mounts/mnt-home.log',
    says: ['… still waiting for … after 5 s; … calls wait'],
    until: true,
  },
  {
    host: 'a',
    commands: 'holdfast takeover /mnt/home',
    says: ['… the server is away, or is shutting down: try again later'],
  },
  {
    host: 'a',
    // Nothing but the client's answer is missing: the call that has waited comes to its end first.
    commands: `${SERVE}\nwait $waiting; cat /root/waited
      client=$(${PID}); kill -STOP $client; holdfast shutdown home --timeout 1; kill -CONT $client`,
    says: ['holdfast: a client was evicted: … (it did not drain within …)'],
  },
  {
    host: 'a',
    commands: `${SERVE}\nmkdir /mnt/second; holdfast mount --foreground home /mnt/second >/root/second 2>&1 & client=$!`,
    says: [],
  },
  { host: 'a', commands: 'cat /root/second', says: ['holdfast: mounted … on /mnt/second'], until: true },
  {
    host: 'a',
    commands: `kill -KILL $client; wait $client; ls /mnt/second
      holdfast status /mnt/second; holdfast umount /mnt/second`,
    says: ['…Transport endpoint is not connected', '… no client process answers for …'],
  },
  {
    host: 'a',
    // The status names the process in charge, after a takeover and after a death, and the options stay with the mount.
    commands: `holdfast umount /mnt/home; holdfast mount -o deaths=2 home /mnt/home && holdfast takeover /mnt/home
      first=$(${PID}); kill -KILL $first`,
    says: [],
  },
  {
    host: 'a',
    commands: `second=$(${PID}); [ -n "$second" ] && [ "$second" != "$first" ] && echo another process`,
    says: ['another process'],
    until: true,
  },
  {
    host: 'a',
    commands: 'kill -KILL $second',
    says: [],
  },
  {
    host: 'a',
    commands: 'cat /run/holdfast/mounts/mnt-home.log',
    says: ['…died … times within a minute: the mount ends'],
    until: true,
  },
  {
    host: 'b',
    commands: 'wait; cat /root/silent /root/nosuch',
    says: [
      '… nothing listens at …; tries again for 10 s',
      '… is neither a filesystem that this host serves nor the name of a host…',
    ],
  },
];

const page = readFileSync(join(packageRoot(), 'docs', 'start', 'TROUBLE.md'), 'utf8');

/** What the first cells of the tables show. */
function shown(): string[] {
  return page
    .split('\n')
    .filter((line) => line.startsWith('| ') && !line.startsWith('| it says'))
    .flatMap((line) => /`([^`]+)`/.exec(line.split(' | ')[0] ?? '')?.[1] ?? []);
}

test('what the page shows is said', { timeout: LIMIT_MS }, async (t) => {
  const world = await PageWorld.start(['a', 'b', 'web1']);
  t.after(() => world.end());
  for (const { host, commands, says, until: again } of CASES) {
    let output = '';
    const missing = (): string[] =>
      says.filter((text) => !output.split('\n').some((line) => isShown(line, text)));
    const look = async (): Promise<boolean> => {
      ({ output } = await world.run(host, commands));
      return missing().length === 0;
    };
    if (again === true) await until(() => `${commands}\n${output}`, look, EVENT_MS);
    else if (!(await look())) assert.fail(`${commands}\nprints:\n${output}\nnot: ${missing().join(' | ')}`);
  }
});

test('every line of the tables is provoked', () => {
  const said = new Set(CASES.flatMap(({ says }) => says));
  assert.deepEqual(
    shown().filter((text) => !said.has(text)),
    [],
  );
});
