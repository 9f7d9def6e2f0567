/** A server that may have lost its target answers nothing before it knows: another one may serve it by now. */

import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { FsError } from '../../../src/base/errno.js';
import { ROOT_FID } from '../../../src/base/ids.js';
import { Getattr } from '../../../src/wire/meta.js';
import { type RawClient, type ServerWorld, serverWorld } from '../../worlds/server_world.js';

interface Doubt {
  readonly world: ServerWorld;
  readonly client: RawClient;
  /** From now on nobody knows whose the target is. */
  readonly doubt: () => void;
  /** It is ours after all. */
  readonly confirm: () => void;
  readonly lose: (failure: FsError) => void;
}

async function guardedServer(t: TestContext): Promise<Doubt> {
  const world = await serverWorld(t);
  let wait: Promise<void> | undefined;
  let settle: { readonly resolve: () => void; readonly reject: (failure: FsError) => void } | undefined;
  let setLost: (failure: FsError) => void = () => undefined;
  world.storeOptions = {
    guard: {
      check: () => wait,
      lost: new Promise((resolve) => {
        setLost = resolve;
      }),
    },
  };
  await world.server();
  const client = await world.connected();
  return {
    world,
    client,
    doubt: () => {
      wait = new Promise((resolve, reject) => {
        settle = { resolve, reject };
      });
      // Who waits for it is told; perhaps nobody does.
      wait.catch(() => undefined);
    },
    confirm: () => {
      wait = undefined;
      settle?.resolve();
    },
    lose: (failure) => {
      settle?.reject(failure);
      setLost(failure);
    },
  };
}

/** Whatever can happen without further input has happened. */
async function turns({ time }: RawClient): Promise<void> {
  await time.sleep(50);
}

test('in doubt requests wait, in order, and are answered when the target turns out to be ours', async (t) => {
  const { client, doubt, confirm } = await guardedServer(t);
  doubt();
  const order: string[] = [];
  const made = client.mkdir('d').then(() => order.push('mkdir'));
  const look = client.call(Getattr, { fid: ROOT_FID, want: 0 }).then(({ attr }) => {
    order.push(`nlink ${attr.nlink}`);
  });
  await turns(client);
  assert.deepEqual(order, []);
  confirm();
  await Promise.all([made, look]);
  assert.deepEqual(order, ['mkdir', 'nlink 3']);
});

test('when the target is lost nothing is answered, and the server stops', async (t) => {
  const { world, client, doubt, lose } = await guardedServer(t);
  doubt();
  let answered = false;
  const asked = client.call(Getattr, { fid: ROOT_FID, want: 0 }).then(
    () => {
      answered = true;
    },
    () => undefined,
  );
  await turns(client);
  lose(new FsError('EIO', 'somebody else has it'));
  await world.last.closed;
  await turns(client);
  assert.deepEqual([answered, client.closed], [false, true]);
  assert.match(world.last.failure?.message ?? '', /somebody else has it/);
  client.requester.detach();
  void asked;
});
