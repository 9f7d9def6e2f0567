/** A client process in the background dies: its keeper starts another one, and the mount lives. */

import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { isMounted } from '../../mount/unmount.js';
import type { ClientStatus } from '../../src/client/api.js';
import { Agent, LOCK, O } from '../fixtures/agent.js';
import { type Cluster, startCluster } from '../fixtures/cluster.js';
import { MIB } from '../fixtures/devices.js';
import { falseSuccessor, readsMark, TAKEOVER_STEPS } from '../fixtures/false_successor.js';
import { nextTree, rootOf, thisTree } from '../fixtures/installed_tree.js';
import { isAlive } from '../fixtures/leftovers.js';
import { until, within } from '../fixtures/until.js';

const EIO = { code: 'EIO' };

/** A mount in the background, as users make it. It ends with the test. */
class Kept {
  readonly dir: string;
  readonly #cluster: Cluster;
  readonly #agents: Agent[] = [];

  constructor(cluster: Cluster) {
    this.#cluster = cluster;
    this.dir = join(cluster.folder, 'kept');
  }

  static async start(cluster: Cluster, options: string): Promise<Kept> {
    const kept = new Kept(cluster);
    mkdirSync(kept.dir);
    await cluster.cliOk(['mount', cluster.address, kept.dir, '-o', options]);
    return kept;
  }

  agent(): Agent {
    const agent = new Agent(this.dir);
    this.#agents.push(agent);
    return agent;
  }

  /** The process in charge; it answers when it serves the mount. */
  async pid(): Promise<number> {
    return until('a process serves the mount', async () => {
      const done = await this.#cluster.cli(['status', this.dir, '--json']);
      return done.code === 0 ? (JSON.parse(done.stdout) as { pid: number }).pid : undefined;
    });
  }

  /** SIGKILL. */
  async kill(): Promise<number> {
    const pid = await this.pid();
    process.kill(pid, 'SIGKILL');
    await until('the process is gone', () => !isAlive(pid));
    return pid;
  }

  log(): string {
    const folder = join(this.#cluster.folder, 'run', 'mounts');
    const [name = ''] = readdirSync(folder).filter((each) => each.endsWith('kept.log'));
    return readFileSync(join(folder, name), 'utf8');
  }

  async endAgents(): Promise<void> {
    for (const agent of this.#agents) {
      agent.child.kill('SIGKILL');
      await within('an agent ends', agent.child.exited);
    }
  }

  async end(): Promise<void> {
    await this.endAgents();
    await this.#cluster.cliOk(['umount', this.dir]);
  }
}

test('open files answer EIO, fsync tells the loss, locks are free, and everything else goes on', async (t) => {
  const cluster = await startCluster(t);
  const kept = await Kept.start(cluster, 'deaths=100');
  const [agent, rival] = [kept.agent(), cluster.agent(0)];
  await agent.writeFile('durable', 'before');
  const durable = await agent.open('durable', O.RDWR);
  await agent.fsync(durable);
  await agent.flock(durable, LOCK.EX);
  const dirty = await agent.open('dirty', O.CREAT | O.RDWR);
  await agent.write(dirty, 'x'.repeat(100_000));
  const directory = await agent.open('', O.RDONLY | O.DIRECTORY);
  await assert.rejects(rival.flock(await rival.open('durable', O.RDWR), LOCK.EX | LOCK.NB), {
    code: 'EAGAIN',
  });

  const before = await kept.kill();
  await agent.mkdir('after');
  assert.notEqual(await kept.pid(), before);
  await assert.rejects(agent.write(durable, 'y'), EIO);
  await assert.rejects(agent.fsync(dirty), EIO);
  await assert.rejects(agent.getdents(directory, 100), EIO);
  await assert.rejects(agent.close(durable), EIO);
  assert.equal(await agent.readFile('durable'), 'before');
  await rival.flock(await rival.open('durable', O.RDWR), LOCK.EX | LOCK.NB);
  // Names and attributes that the kernel had from the dead process are not believed.
  await rival.rename('durable', 'elsewhere');
  await assert.rejects(agent.stat('durable'), { code: 'ENOENT' });
  assert.equal((await agent.stat('elsewhere')).size, 6);
  assert.match(kept.log(), /has died; its keeper starts another one/);
  assert.match(kept.log(), /has died; files that were open answer EIO/);
  const { clients } = await cluster.status();
  assert.equal(clients.length, 2, 'the dead client is gone for the server');
  await kept.end();
});

/** HOLDFAST_DEATHS: how often the client dies. */
const DEATHS = Number(process.env.HOLDFAST_DEATHS ?? 20);

test('many deaths under load: no new call fails, nothing hangs, and no other mount notices', {
  timeout: 180_000,
}, async (t) => {
  const cluster = await startCluster(t, { limitMs: 170_000 });
  const kept = await Kept.start(cluster, 'deaths=100');
  let stop = false;
  let calls = 0;
  let lost = 0;
  const other = cluster.agent(0);
  const undisturbed = (async () => {
    for (let at = 0; !stop; at++) {
      await other.writeFile('theirs', `${at}`);
      assert.equal(await other.readFile('theirs'), `${at}`);
    }
  })();
  undisturbed.catch(() => undefined);
  /** What was open when the process died may fail with EIO, and nothing else. */
  const work = async (index: number): Promise<void> => {
    const agent = kept.agent();
    for (let at = 0; !stop; at++) {
      try {
        await agent.writeFile(`f${index}`, `${at}`);
        await agent.readFile(`f${index}`);
        await agent.list();
        await agent.mkdir(`d${index}.${at}`);
        calls += 1;
      } catch (error) {
        // A call that had succeeded when the process died is made once more.
        assert.ok(['EIO', 'EEXIST'].includes((error as { code: string }).code), `${error}`);
        lost += 1;
      }
    }
  };
  const load = Promise.all([1, 2, 3].map(work));
  load.catch(() => undefined);
  let longestMs = 0;
  for (let death = 0; death < DEATHS; death++) {
    await kept.kill();
    const began = performance.now();
    await within('a call after a death', kept.agent().mkdir(`death ${death}`));
    longestMs = Math.max(longestMs, performance.now() - began);
    const at = calls;
    await until('the load goes on', () => calls > at + 3);
  }
  stop = true;
  await within('the load ends', load);
  await within('the other mount goes on', undisturbed);
  t.diagnostic(`${calls} rounds, ${lost} of them lost; a new call took ${longestMs.toFixed(0)} ms at most`);
  await kept.end();
});

test('after the last death that is allowed the mount ends, with a line', async (t) => {
  const cluster = await startCluster(t);
  const kept = await Kept.start(cluster, 'deaths=2');
  await kept.kill();
  await kept.agent().mkdir('after');
  await kept.kill();
  await until('the mount is gone', () => !isMounted(kept.dir));
  assert.match(kept.log(), /died 2 times within a minute: the mount ends/);
  await kept.endAgents();
  // Nobody says goodbye for the dead client.
  const dead = (await cluster.status()).clients.find(({ name }) => name.endsWith('/kept'));
  await cluster.cliOk(['evict', cluster.admin, dead?.uuid ?? '']);
});

test('a process that hands over, and dies at any step: the mount lives, and the next version is started after the next death', {
  timeout: 180_000,
}, async (t) => {
  const cluster = await startCluster(t, { limitMs: 170_000 });
  const kept = await Kept.start(cluster, 'deaths=100');
  for (const step of TAKEOVER_STEPS) {
    const kills = `${step}, and kills its starter` as const;
    const before = await kept.pid();
    const asked = cluster.cli([
      'takeover',
      kept.dir,
      '--with',
      rootOf(falseSuccessor(cluster.folder, kills)),
    ]);
    if (step === 'go, with requests read') {
      // The new process reads the request of this call, and then there is neither of the two: the kernel sends it again.
      await until('requests are read', () => existsSync(readsMark(cluster.folder, kills)));
      await within('a call whose request was read', kept.agent().mkdir(`read at ${step}`));
    }
    const done = await asked;
    assert.equal(done.code, 1, done.stdout);
    await within(`a call after a death at ${step}`, kept.agent().mkdir(step));
    assert.notEqual(await kept.pid(), before);
  }
  await cluster.cliOk(['takeover', kept.dir, '--with', rootOf(nextTree())]);
  await kept.kill();
  await kept.agent().mkdir('after');
  const status = JSON.parse(await cluster.cliOk(['status', kept.dir, '--json'])) as {
    softwareVersion: string;
  };
  assert.equal(status.softwareVersion, nextTree().version);
  assert.notEqual(status.softwareVersion, thisTree().version);
  await kept.end();
});

test('without a server the next process waits, and an unmount by force ends it', async (t) => {
  const cluster = await startCluster(t);
  const kept = await Kept.start(cluster, 'deaths=100');
  await kept.agent().writeFile('f', 'x'.repeat(MIB));
  await cluster.killServer();
  const pid = await kept.pid();
  process.kill(pid, 'SIGKILL');
  const waits = kept.agent().mkdir('waits');
  waits.catch(() => undefined);
  await until('the keeper has started another one', () => /its keeper starts/.test(kept.log()));
  await cluster.serve();
  await within('a call that has waited for the server', waits);

  await cluster.killServer();
  process.kill(await kept.pid(), 'SIGKILL');
  await until(
    'the keeper has started one more',
    () => (kept.log().match(/its keeper starts/g) ?? []).length === 2,
  );
  await cluster.cliOk(['umount', '--force', kept.dir]);
  await until('the mount is gone', () => !isMounted(kept.dir));
  await kept.endAgents();
  await cluster.serve();
});

test('a detached mount ends with its client, and the mount at its place stays', async (t) => {
  const cluster = await startCluster(t);
  const kept = await Kept.start(cluster, 'deaths=100');
  const agent = kept.agent();
  const held = await agent.open('held', O.CREAT | O.RDWR);
  const first = await kept.pid();
  await cluster.cliOk(['umount', '--lazy', kept.dir]);
  await cluster.cliOk(['mount', cluster.address, kept.dir]);
  const second = await kept.pid();
  process.kill(first, 'SIGKILL');
  await assert.rejects(agent.fsync(held), (error: { code: string }) =>
    ['ENOTCONN', 'ECONNABORTED'].includes(error.code),
  );
  await kept.agent().mkdir('after');
  assert.equal(await kept.pid(), second);
  await kept.end();
});

test('before Linux 6.9: calls that the dead process had read answer ECONNABORTED, and all others go on', {
  timeout: 180_000,
}, async (t) => {
  const cluster = await startCluster(t, { limitMs: 170_000, mounts: 0 });
  cluster.env.HOLDFAST_WITHOUT_RESEND = '1';
  const kept = await Kept.start(cluster, 'deaths=100');
  const agent = kept.agent();
  await agent.writeFile('f', 'x');
  const [holder, waiter] = [kept.agent(), kept.agent()];
  const held = await holder.open('f', O.RDWR);
  await holder.flock(held, LOCK.EX);
  const wanted = await waiter.open('f', O.RDWR);
  const granted = waiter.flock(wanted, LOCK.EX);
  granted.catch(() => undefined);

  // What waits in a process that hands over does not end with it: its file goes on to the next process.
  await cluster.cliOk(['takeover', kept.dir, '--with', rootOf(nextTree())]);
  await holder.flock(held, LOCK.UN);
  await within('a lock in line', granted);

  for (let death = 0; death < 2; death++) {
    await cluster.killServer();
    const read = kept.agent().mkdir(`read ${death}`);
    const ended = assert.rejects(read, { code: 'ECONNABORTED' });
    await until('the call waits in the client', async () => {
      const status = JSON.parse(await cluster.cliOk(['status', kept.dir, '--json'])) as ClientStatus;
      return (status.targets[0]?.parked ?? 0) > 0;
    });
    await kept.kill();
    await within('the call that was read', ended);
    const waits = kept.agent().mkdir(`after ${death}`);
    await cluster.serve();
    await within('a call that nobody had read', waits);
  }
  await assert.rejects(waiter.close(wanted), EIO);
  assert.equal(await agent.readFile('f'), 'x');
  await kept.end();
});
