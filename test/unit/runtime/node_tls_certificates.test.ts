/** Connections that are authenticated by certificates, and files that change under a listener. */

import assert from 'node:assert/strict';
import { copyFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, type TestContext } from 'node:test';
import type { CertificateFiles, Credentials } from '../../../src/runtime/ports.js';
import { WITH_KEY } from '../../fixtures/carriers.js';
import { authority, textsOf, type Wish } from '../../fixtures/certificates.js';
import type { End } from '../../fixtures/connection_ends.js';
import { bare, connectedWith, eachTls, failure, type Secured, secured } from '../../fixtures/tls_peers.js';
import { until } from '../../fixtures/until.js';

const ca = authority();
const foreign = authority('Foreign CA');
after(() => {
  ca.remove();
  foreign.remove();
});

const HOSTS = ['DNS:localhost', 'IP:127.0.0.1'];
const SERVER = ca.issue({ name: 'server', hosts: HOSTS });
const CLIENT = ca.issue({ name: 'node 7', hosts: ['DNS:node7.example', 'DNS:seven', 'IP:10.0.0.7'] });

function by(files: CertificateFiles): Credentials {
  return { kind: 'certificate', files };
}

/** Connects with this certificate. @returns why it was refused; undefined: it was not. */
async function refusal(
  t: TestContext,
  { listener }: Secured,
  files: CertificateFiles,
): Promise<Error | undefined> {
  const client = await connectedWith(t, listener.address, by(files));
  client.connection.write([Buffer.from('HFS1 hello')]);
  return await client.end();
}

eachTls('more certificates than anybody needs are refused before they are all there', async (t) => {
  const ca = authority();
  t.after(ca.remove);
  const { listener, accepted, refusals } = await secured(t, {
    certificate: ca.issue({ name: 'server', hosts: ['IP:127.0.0.1'] }),
  });
  const own = textsOf(ca.issue({ name: 'client' }));
  const chain = (length: number): Buffer => Buffer.concat([own.cert, ...Array<Buffer>(length).fill(own.ca)]);
  await bare(listener.address, {
    ...own,
    cert: chain(60),
    rejectUnauthorized: false,
    pskCallback: undefined,
  });
  assert.deepEqual(await refusals(1), ['the TLS handshake failed: excessive message size']);
  assert.equal(accepted.length, 0);
});

eachTls('a certificate of the CA is taken, with its names, and so is a key beside it', async (t) => {
  const { listener, accepted, refused } = await secured(t, { certificate: SERVER });
  const client = await connectedWith(t, listener.address, by(CLIENT));
  const other = await connectedWith(t, { ...listener.address, host: 'localhost' }, WITH_KEY);
  await until('both are accepted', () => accepted.length === 2);
  const [first, second] = accepted as [End, End];
  const names = ['node 7', 'node7.example', 'seven'];
  assert.deepEqual(first.connection.origin.proof, { kind: 'certificate', names });
  assert.deepEqual(second.connection.origin.proof, { kind: 'key', identity: 'alice' });
  for (const [at, end] of [client, other].entries()) {
    end.connection.write([Buffer.from('hello')]);
    await accepted[at]?.has(5);
    accepted[at]?.connection.write([Buffer.from('HFS1')]);
    assert.equal((await end.has(4)).toString(), 'HFS1');
  }
  assert.deepEqual(refused, []);
});

eachTls('certificates that do not count are refused with the reason, on both sides', async (t) => {
  const own = await secured(t, { certificate: SERVER });
  const { address } = own.listener;
  const stranger = foreign.issue({ name: 'stranger' });
  const ways: [files: CertificateFiles, why: RegExp][] = [
    [
      ca.issue({ name: 'old', fromDays: -20, untilDays: -10 }),
      /^certificate "old" expired on \d{4}-\d\d-\d\dT[\d:]+Z, and it is \d{4}-\d\d-\d\dT[\d:]+Z here$/,
    ],
    [
      ca.issue({ name: 'early', fromDays: 5 }),
      /^certificate "early" is not valid before \S+Z, and it is \S+Z here: compare the clocks$/,
    ],
    [{ ...stranger, ca: SERVER.ca }, /^certificate "stranger" is not signed by a CA in .*ca\.crt$/],
    [ca.issue({ name: 'wrong', usage: 'serverAuth' }), /^certificate "wrong" is not for this purpose/],
  ];
  for (const [files, why] of ways) {
    const before = own.refused.length;
    const error = (await refusal(t, own, files)) as NodeJS.ErrnoException;
    const [said = ''] = (await own.refusals(before + 1)).slice(before);
    assert.match(said, why);
    assert.equal(error.code, 'EACCES');
    assert.equal(
      error.message,
      `127.0.0.1:${address.port} refused our certificate ${files.certificate}: ${said}`,
    );
  }
  assert.equal(own.accepted.length, 0);
});

eachTls('a server whose certificate does not count is refused with the reason', async (t) => {
  const ways: [wish: Wish, of: typeof ca, why: RegExp][] = [
    [{ name: 'old', hosts: HOSTS, fromDays: -20, untilDays: -10 }, ca, /certificate "old" expired on /],
    [{ name: 'early', hosts: HOSTS, fromDays: 5 }, ca, /"early" is not valid before .*: compare the clocks$/],
    [
      { name: 'stranger', hosts: HOSTS },
      foreign,
      /certificate "stranger" is not signed by a CA in .*ca\.crt$/,
    ],
    [
      { name: 'other', hosts: ['DNS:other.example', 'IP:10.0.0.1'] },
      ca,
      /certificate is for other\.example, 10\.0\.0\.1, and not for 127\.0\.0\.1$/,
    ],
    [{ name: '127.0.0.1' }, ca, /certificate is for "127\.0\.0\.1", without other names, and not for 127/],
    [{ name: 'wrong', hosts: HOSTS, usage: 'clientAuth' }, ca, /certificate "wrong" is not for this purpose/],
  ];
  for (const [wish, of, why] of ways) {
    const files = { ...of.issue(wish), ca: SERVER.ca };
    const { listener, accepted } = await secured(t, { certificate: files });
    const error = await failure(connectedWith(t, listener.address, by(CLIENT)));
    assert.equal(error.code, 'EACCES');
    assert.match(error.message, why);
    assert.ok(error.message.startsWith(`not connected to 127.0.0.1:${listener.address.port}: its `));
    assert.equal(accepted.length, 0);
  }
});

eachTls('a client without a certificate of its own is refused', async (t) => {
  const own = await secured(t, { certificate: SERVER });
  const { connect } = await import('node:tls');
  const socket = connect({ ...own.listener.address, rejectUnauthorized: false });
  t.after(() => socket.destroy());
  socket.resume();
  socket.on('error', () => undefined);
  await new Promise((resolve) => socket.once('close', resolve));
  assert.deepEqual(await own.refusals(1), ['it has no key and no certificate']);
  assert.equal(own.accepted.length, 0);
});

eachTls('a server that takes keys only says so to a client with a certificate', async (t) => {
  const { listener, refusals } = await secured(t);
  const error = await failure(connectedWith(t, listener.address, by(CLIENT)));
  assert.equal(error.code, 'EACCES');
  assert.equal(error.message, `127.0.0.1:${listener.address.port} takes no certificates, only keys`);
  assert.deepEqual(await refusals(1), ['it has no key and no certificate']);
});

eachTls('files that are not there or are no certificates are named', async (t) => {
  const nowhere = { ...CLIENT, certificate: join(ca.folder, 'nowhere.crt') };
  const noKey = { ...CLIENT, key: CLIENT.certificate };
  const mixed = { ...CLIENT, key: SERVER.key };
  const noCa = { ...CLIENT, ca: CLIENT.key };
  const { listener } = await secured(t, { certificate: SERVER });
  for (const files of [nowhere, noKey, mixed, noCa]) {
    const here = await failure(connectedWith(t, listener.address, by(files)));
    const there = await failure(secured(t, { certificate: files }));
    assert.deepEqual([here.code, there.code], ['EACCES', 'EINVAL']);
    assert.equal(here.message, there.message);
    for (const path of Object.values(files)) assert.ok(here.message.includes(path), here.message);
  }
});

eachTls('renewed files are used from then on, broken ones are not, and no connection suffers', async (t) => {
  const at = (name: string): string => join(ca.folder, `renewed.${name}`);
  const files = { certificate: at('crt'), key: at('key'), ca: at('ca') };
  const put = (from: CertificateFiles): void => {
    for (const kind of ['certificate', 'key', 'ca'] as const) copyFileSync(from[kind], files[kind]);
  };
  put(ca.issue({ name: 'first', hosts: HOSTS }));
  const own = await secured(t, { certificate: files });
  const open = await connectedWith(t, own.listener.address, by(CLIENT));
  // A client that leaves at once is refused too.
  const notices = (): string[] => own.refused.filter((why) => why.includes('stays in use'));
  writeFileSync(files.certificate, 'half a cert');
  await until('the broken file is seen', async () => {
    (await connectedWith(t, own.listener.address, by(CLIENT))).connection.destroy();
    return notices().length > 0;
  });
  const again = await connectedWith(t, own.listener.address, by(CLIENT));
  again.connection.destroy();
  assert.equal(notices().length, 1);
  assert.match(
    notices()[0] ?? '',
    /renewed\.crt has no certificate in PEM.*; the certificate from before stays in use$/,
  );
  put(foreign.issue({ name: 'second', hosts: HOSTS }));
  await until('the renewed file is used', async () => {
    const { code, message } = await failure(connectedWith(t, own.listener.address, by(CLIENT)));
    return code === 'EACCES' && message.includes('certificate "second" is not signed by');
  });
  open.connection.write([Buffer.from('still here')]);
  await (own.accepted[0] as End).has(10);
});
