/**
 * Names that are written back between two builds: servers and clients of different ages that are killed, cut off and upgraded in
 * the middle of BATCHes (docs/WRITE_BACK.md). Old is the first build that knows BATCH, built from git. Release 0.1 has none.
 *
 * "In the middle" is made, and not hoped for. The server is stopped under the load, so the client goes on alone until its log is full:
 * then hundreds of operations that programs were told of are on the client only. Or the server commits nothing, so all that it has
 * answered is in the client's replay list. Or a relay keeps the answers to BATCHes that are durable. The status of both sides
 * says before each kill that it is so.
 */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test, { type TestContext } from 'node:test';
import { askControl } from '../../src/cli/control.js';
import type { ClientStatus } from '../../src/client/api.js';
import { BATCH_MAX } from '../../src/wire/batch.js';
import { type Agent, SyscallError } from '../fixtures/agent.js';
import { type Cluster, type Mount, prepareCluster } from '../fixtures/cluster.js';
import { nextTree, type Tree, thisTree } from '../fixtures/installed_tree.js';
import { isWhole, NamesLoad, type Snapshot, snapshot } from '../fixtures/names_load.js';
import { lacksCommit, treeOf } from '../fixtures/old_tree.js';
import { Relay } from '../fixtures/relay.js';
import { FIRST_WITH_BATCH } from '../fixtures/releases.js';
import { until, within } from '../fixtures/until.js';
import { FOR_ALL } from './ages.js';

type Age = 'old' | 'new';

const skip = lacksCommit(FIRST_WITH_BATCH.commit);
/** HOLDFAST_INTEROP=short: only new servers, as after an upgrade that begins with the servers. It takes half of the time. */
const isShort = process.env.HOLDFAST_INTEROP === 'short';
const MIXED = (
  [
    ['old', 'new'],
    ['new', 'old'],
  ] as const
).filter(([, server]) => !isShort || server === 'new');
/** In the log of a client whose server does not answer. The metadata grant ends that at 300 or more. */
const MANY_CHANGES = 100;
/** No more than two BATCHes are under way, so some operations were not even sent. */
const CHANGES_NOT_SENT = 2 * BATCH_MAX + 1;
/** In the replay list, when commits are held back. */
const MANY_REPLAYS = 200;
/** Only a BATCH or the content of a file is so long. */
const BATCH_BYTES = 1500;
const LIMIT_MS = 300_000;
const WAIT_MS = 60_000;
/** A program that was told nothing in so many looks waits for the server. If it does not, nothing but time is lost. */
const LOOKS_ALIKE_MAX = 20;
/** Each takes a second or two: only the watchdog of the test ends it in practice. */
const TRIES_MAX = 200;
const options = { skip, timeout: LIMIT_MS + 10_000 };

/** As long as no source of the product has changed since the old build, both are one version: then new is a copy with the next one. */
function treeFor(age: Age): Tree {
  const old = treeOf(FIRST_WITH_BATCH.commit);
  // The relay is a program of root, and has no low port.
  if (age === 'old') return { ...old, serveArgs: ['--any-port'] };
  const tree = thisTree().version === old.version ? nextTree() : thisTree();
  return { ...tree, serveArgs: FOR_ALL, mountOptions: ['tls=off'] };
}

const otherThan = (age: Age): Age => (age === 'old' ? 'new' : 'old');

/** A mount, and a program that works there in a directory that it has made. */
interface Party {
  readonly mount: Mount;
  readonly mountIndex: number;
  readonly load: NamesLoad;
}
type TargetStatus = ClientStatus['targets'][number];

/** The old build makes the target, so both builds can serve it. */
async function startServer(t: TestContext, age: Age, args: readonly string[] = []): Promise<Cluster> {
  const made = prepareCluster(t, { faults: true, limitMs: LIMIT_MS });
  await made.cliOk(['mkfs', ...made.deviceArgs], treeFor('old'));
  await made.serve({ tree: treeFor(age), args });
  // Where this process finds the clients, too.
  process.env.HOLDFAST_RUNTIME_DIR = made.env.HOLDFAST_RUNTIME_DIR;
  return made;
}

async function join(made: Cluster, age: Age, root: string, address = made.address): Promise<Party> {
  const mountIndex = made.mounts.length;
  const mount = made.startMount([], address, treeFor(age));
  await mount.ready();
  const { softwareVersion } = await made.mountStatus(mount);
  assert.equal(softwareVersion, treeFor(age).version);
  const load = new NamesLoad(made.agent(mountIndex), root);
  return { mount, mountIndex, load };
}

/** What `holdfast status MOUNT` shows, without a process for each look. */
async function targetStatus({ mount }: Party): Promise<TargetStatus> {
  const answer = await askControl(mount.dir, { command: 'status' });
  const [target] = (answer?.data as ClientStatus | undefined)?.targets ?? [];
  assert.ok(target !== undefined, `the client of ${mount.dir} answers`);
  return target;
}

/** Waits for something while the programs work. A program that fails is what is reported. */
async function whileTheyWork<T>(
  what: string,
  parties: readonly Party[],
  look: () => T | Promise<T>,
): Promise<NonNullable<Exclude<T, false>>> {
  const failed = Promise.all(parties.map(({ load }) => load.ended)).then(
    (): Promise<never> => new Promise(() => undefined),
  );
  failed.catch(() => undefined);
  return Promise.race([until(what, look, WAIT_MS), failed]);
}

async function theyGoOn(parties: readonly Party[], steps = 100): Promise<void> {
  const before = parties.map(({ load }) => load.told);
  await whileTheyWork('the programs go on', parties, () =>
    parties.every(({ load }, at) => load.told > (before[at] ?? 0) + steps),
  );
}

async function pauseServer(made: Cluster): Promise<void> {
  const { child } = made.server;
  child.kill('SIGSTOP');
  await until('the server stands still', () => {
    const stat = readFileSync(`/proc/${child.pid}/stat`, 'latin1');
    return stat.charAt(stat.lastIndexOf(')') + 2) === 'T';
  });
}

function resumeServer(made: Cluster): void {
  made.server.child.kill('SIGCONT');
}

/**
 * Keeps answers away from the clients until the log of one has many operations that programs were told of. A program that works in a
 * directory that others use has nothing in its log: then the answers arrive, and all begins anew in the next directory.
 * @param relay the clients are connected through it, and it keeps the answers. Without it the server is stopped.
 * @returns of which parties that is so: one at least.
 */
async function stopInTheMiddle(
  made: Cluster,
  parties: readonly Party[],
  least = MANY_CHANGES,
  relay?: Relay,
): Promise<Party[]> {
  for (let tries = 0; tries < TRIES_MAX; tries++) {
    await theyGoOn(parties, 20);
    if (relay === undefined) await pauseServer(made);
    else relay.keepAnswers();
    let [seen, hit]: [number[], Party[]] = [[], []];
    let looksAlike = 0;
    await whileTheyWork('many operations wait, or the programs do', parties, async () => {
      const before = { seen, hit };
      seen = parties.map(({ load }) => load.told);
      const statuses = await Promise.all(parties.map(targetStatus));
      hit = parties.filter((_, at) => (statuses[at]?.changes ?? 0) >= least);
      looksAlike = seen.every((steps, at) => steps === before.seen[at]) ? looksAlike + 1 : 0;
      // Between two looks the client has read what had arrived before.
      return (hit.length > 0 && before.hit.length === hit.length) || looksAlike > LOOKS_ALIKE_MAX;
    });
    if (hit.length > 0) return hit;
    const directories = parties.map(({ load }) => load.directoryAfter(load.told));
    if (relay === undefined) resumeServer(made);
    else relay.passAnswers();
    await whileTheyWork('the programs are in other directories', parties, () =>
      parties.every(({ load }, at) => load.directoryAfter(load.told) !== directories[at]),
    );
  }
  throw new Error(`no client had ${least} operations in its log`);
}

/** A server that stands still is shut down as soon as it goes on, and the version of that age starts. */
async function resumeWithUpgrade(made: Cluster, to: Age): Promise<void> {
  made.server.child.kill('SIGTERM');
  resumeServer(made);
  await made.serverEnded();
  await made.serve({ tree: treeFor(to) });
}

/** Nothing is committed from now on, and many operations wait for that, as their clients know. */
async function holdManyAnswered(made: Cluster, parties: readonly Party[]): Promise<void> {
  await made.hold();
  await whileTheyWork('many operations are answered and not durable', parties, async () => {
    const statuses = await Promise.all(parties.map(targetStatus));
    return statuses.every(({ replayList }) => replayList.operations >= MANY_REPLAYS);
  });
}

/** Everything that the programs were told is there once, on their mounts and on one that was made now, and nobody was evicted. */
async function assertAllIsThere(made: Cluster, parties: readonly Party[]): Promise<void> {
  await within('the programs end', Promise.all(parties.map(({ load }) => load.stop())), WAIT_MS);
  const { evicted } = await made.status();
  assert.deepEqual(evicted, []);
  await made.addMount();
  const witness = made.agent(made.mounts.length - 1);
  for (const { load } of parties) {
    const [own, seen] = [await snapshot(load.agent, load.root), await snapshot(witness, load.root)];
    const shown = new Map([...seen].map(([path, entry]) => [path, entry.shown]));
    assert.deepEqual(shown, load.expected());
    assert.deepEqual(own, seen);
  }
}

function told(parties: readonly Party[]): string {
  return `${parties.map(({ load }) => load.told).join(' and ')} steps`;
}

for (const [client, server] of MIXED) {
  test(
    `client ${client}, server ${server} killed in the middle of batches: all that was told is there once`,
    options,
    async (t) => {
      const made = await startServer(t, server);
      const relay = await Relay.start(() => made.address);
      t.after(() => relay.close());
      const party = await join(made, client, 'work', relay.address);
      const parties = [party];

      // Answered by the client only.
      await stopInTheMiddle(made, parties);
      await made.crash();
      await theyGoOn(parties);

      // Answered by the server, and not durable.
      await holdManyAnswered(made, parties);
      await stopInTheMiddle(made, parties);
      const { changes, replayList } = await targetStatus(party);
      assert.ok(changes >= MANY_CHANGES && replayList.operations >= MANY_REPLAYS);
      await made.crash();
      await theyGoOn(parties);
      const { recovery } = await made.status();
      assert.ok(recovery !== undefined && recovery.replayed > 0, JSON.stringify(recovery));

      // Durable, and not answered: the server knows from its records what it has done.
      await stopInTheMiddle(made, parties, MANY_CHANGES, relay);
      await until('all that was sent is durable', async () => {
        const { lastTransno, lastCommitted } = await made.status();
        return lastCommitted === lastTransno;
      });
      assert.ok(relay.keptBytes > 0, 'the server has answered batches, and the client does not know');
      await made.killServer();
      relay.loseAnswers();
      await made.serve();
      await theyGoOn(parties);
      assert.equal((await made.status()).recovery?.replayed, 0);

      // At any time.
      for (let kills = 0; kills < 3; kills++) {
        await made.crash();
        await theyGoOn(parties, 20 + 100 * kills);
      }
      await assertAllIsThere(made, parties);
      t.diagnostic(`6 kills in ${told(parties)}`);
    },
  );

  test(
    `client ${client}, server ${server}: batches whose connection is lost are executed once`,
    options,
    async (t) => {
      const made = await startServer(t, server);
      const relay = await Relay.start(() => made.address);
      t.after(() => relay.close());
      const parties = [await join(made, client, 'work', relay.address)];
      const { instance } = made.server;
      for (let round = 0; round < 3; round++) {
        await stopInTheMiddle(made, parties, MANY_CHANGES, relay);
        relay.loseAnswers();
        await theyGoOn(parties);
        await within('a batch is cut', relay.cutInMessage(BATCH_BYTES), WAIT_MS);
        await theyGoOn(parties);
      }
      await assertAllIsThere(made, parties);
      assert.equal((await made.status()).instance, instance);
      t.diagnostic(`6 connections lost in ${told(parties)}`);
    },
  );

  test(
    `client ${client}, server ${server} killed in the middle of batches: the other version has to wait for the same one`,
    options,
    async (t) => {
      const made = await startServer(t, server);
      const parties = [await join(made, client, 'work')];
      await holdManyAnswered(made, parties);
      await stopInTheMiddle(made, parties);
      await made.killServer();
      const serve = ['serve', ...made.deviceArgs, '--listen', made.address];
      const refused = await made.cli(serve, treeFor(otherThan(server)));
      assert.equal(refused.code, 1);
      // What was committed last is in a redo log, of which the old build knows nothing.
      const why =
        server === 'old' ? /left no clean mark.*--force-start/ : /uses features this software does not know/;
      assert.match(refused.stderr, why);
      await made.serve();
      await theyGoOn(parties);
      await stopInTheMiddle(made, parties);
      await resumeWithUpgrade(made, otherThan(server));
      await theyGoOn(parties);
      await assertAllIsThere(made, parties);
      t.diagnostic(told(parties));
    },
  );

  test(
    `client ${client}, server ${server} killed in the middle of batches, the other version forced: a prefix is left`,
    options,
    async (t) => {
      // The old build can be forced to go on after a server without a redo log.
      const made = await startServer(t, server, server === 'new' ? ['--no-redo-log'] : []);
      const party = await join(made, client, 'work');
      await theyGoOn([party]);
      const durable = await party.load.sync();
      await holdManyAnswered(made, [party]);
      await stopInTheMiddle(made, [party]);
      await made.killServer();
      // What it waits for must not be executed after the eviction.
      await party.load.agent.dies('SIGKILL');
      await made.serve({ tree: treeFor(otherThan(server)), args: ['--force-start'] });
      const { evictions } = await until('the client is back', async () => {
        const status = await targetStatus(party);
        return status.importState === 'FULL' && status.evictions.length > 0 && status;
      });
      const lost = evictions.map(({ uncommitted }) => uncommitted);
      assert.ok(lost.length === 1 && (lost[0] ?? 0) >= MANY_CHANGES + MANY_REPLAYS, `${lost}`);
      assert.equal((await made.status()).evicted.length, 1);
      const left = await snapshot(made.agent(party.mountIndex), 'work');
      const steps = stepsLeft(party.load, left);
      assert.ok(steps >= durable && steps < party.load.told, `${durable}, ${steps}, ${party.load.told}`);
      await made.addMount([], treeFor(server));
      assert.deepEqual(await snapshot(made.agent(1), 'work'), left);
      t.diagnostic(`${steps} of ${party.load.told} steps are left, ${durable} were durable`);

      const again = { ...party, load: new NamesLoad(made.agent(party.mountIndex), 'again') };
      await theyGoOn([again], 400);
      await stopInTheMiddle(made, [again]);
      await resumeWithUpgrade(made, server);
      await theyGoOn([again]);
      await assertAllIsThere(made, [again]);
    },
  );

  test(
    `client ${client} killed in the middle of batches, server ${server}: a prefix is left, and no short file`,
    options,
    async (t) => {
      const made = await startServer(t, server);
      await made.addMount([], treeFor(server));
      const witness = made.agent();
      for (const [round, isStopped] of [true, true, false, false].entries()) {
        const party = await join(made, client, `work${round}`);
        const { load, mount } = party;
        await theyGoOn([party]);
        const durable = await load.sync();
        await theyGoOn([party], 300);
        const { uuid } = await made.mountStatus(mount);
        if (isStopped) await stopInTheMiddle(made, [party], CHANGES_NOT_SENT);
        mount.child.kill('SIGKILL');
        await mount.child.exited;
        made.abortMount(mount);
        if (isStopped) resumeServer(made);
        await made.cliOk(['evict', made.address, uuid]);
        await assert.rejects(load.ended);
        const steps = stepsLeft(load, await snapshot(witness, load.root));
        assert.ok(steps >= durable, `${steps} steps are left, ${durable} were durable`);
        // The client had more than it had sent.
        if (isStopped) assert.ok(steps < load.told, `${steps} of ${load.told} steps are left`);
        t.diagnostic(`${steps} of ${load.told} steps are left, ${durable} were durable`);
      }
    },
  );
}

/** Fails if the tree is not what the program had after one of its steps. */
function stepsLeft(load: NamesLoad, left: Snapshot): number {
  const steps = load.stepsIn(left);
  assert(steps !== undefined, `no prefix of ${load.given} steps: ${JSON.stringify([...left.keys()])}`);
  return steps;
}

/**
 * Looks into the directory in which the other program works. Names that were there all the time are there, names that were there
 * at no time are not, and no file is short.
 */
async function look(visitor: Agent, load: NamesLoad): Promise<number> {
  const from = load.told;
  const directory = load.directoryAfter(from);
  const orGone = async (path: string, call: Promise<void>): Promise<void> => {
    try {
      await call;
    } catch (error) {
      const isGone = error instanceof SyscallError && error.code === 'ENOENT';
      if (!isGone || load.isThereBetween(path, from, load.given)) throw error;
    }
  };
  let files = 0;
  const list = async (): Promise<void> => {
    const paths = (await visitor.list(directory)).map((name) => `${directory}/${name}`);
    const { must, may } = load.namesBetween(directory, from, load.given);
    assert.deepEqual(paths, [...new Set(paths)]);
    assert.deepEqual(
      [[...must].filter((path) => !paths.includes(path)), paths.filter((path) => !may.has(path))],
      [[], []],
    );
    for (const path of paths.filter((each) => /\/f\d+$/.test(each))) {
      const read = async (): Promise<void> => {
        assert.ok(isWhole(await visitor.readFile(path)), `${path} is short`);
        files += 1;
      };
      await orGone(path, read());
    }
  };
  await orGone(directory, list());
  return files;
}

for (const server of (['old', 'new'] as const).filter((age) => !isShort || age === 'new')) {
  test(
    `server ${server}, upgraded to ${otherThan(server)} and back in the middle of batches of old and new clients`,
    options,
    async (t) => {
      const made = await startServer(t, server);
      const parties = [await join(made, 'old', 'of old'), await join(made, 'new', 'of new')];
      for (const to of [otherThan(server), server, otherThan(server), server]) {
        await stopInTheMiddle(made, parties);
        await resumeWithUpgrade(made, to);
        await theyGoOn(parties);
      }
      await assertAllIsThere(made, parties);
      t.diagnostic(`4 upgrades in ${told(parties)}`);
    },
  );

  test(
    `server ${server}: old and new clients look into each other's directories in the middle of batches`,
    options,
    async (t) => {
      const made = await startServer(t, server);
      const parties = [await join(made, 'old', 'of old'), await join(made, 'new', 'of new')];
      const visitors = [made.agent(1), made.agent(0)];
      const looks = [0, 0];
      let files = 0;
      let age: Age = server;
      for (let round = 0; looks.some((count) => count < 4); round++) {
        const looking = (await stopInTheMiddle(made, parties)).map(async ({ mountIndex, load }) => {
          looks[mountIndex] = (looks[mountIndex] ?? 0) + 1;
          files += await look(visitors[mountIndex] as Agent, load);
        });
        const all = Promise.all(looking);
        all.catch(() => undefined);
        await Promise.race([all, Promise.any(visitors.map((visitor) => visitor.blocked()))]);
        if (round % 3 === 1) await made.crash();
        else if (round % 3 === 2) {
          age = otherThan(age);
          await resumeWithUpgrade(made, age);
        } else resumeServer(made);
        await within('the looks end', all, WAIT_MS);
      }
      await theyGoOn(parties);
      await assertAllIsThere(made, parties);
      t.diagnostic(`${looks.join(' and ')} looks at ${files} files in ${told(parties)}`);
    },
  );
}
