// An identity provider for tests: npm's oidc-provider, and a token exchange of our own making.
// node provider.mjs PORT [PEM] — on 127.0.0.1, by https where PEM holds a key and a certificate, and then it takes
// client metadata documents too; says "ready" on stdout. Its packages are found from the working directory.
import { createRequire } from 'node:module';
import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import https from 'node:https';
import { pathToFileURL } from 'node:url';

const require = createRequire(`${process.cwd()}/`);
const load = (name) => import(pathToFileURL(require.resolve(name)));
const { default: Provider, errors } = await load('oidc-provider');
const jose = await load('jose');

const port = Number(process.argv[2]);
const pem = process.argv[3] && readFileSync(process.argv[3]);
const issuer = `${pem ? 'https' : 'http'}://127.0.0.1:${port}`;
const EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange';
const ACCESS_TOKEN = 'urn:ietf:params:oauth:token-type:access_token';
const groups = { alice: ['support'], bob: ['billing'] };

const jwk = (alg, ...how) => ({
  ...generateKeyPairSync(...how).privateKey.export({ format: 'jwk' }), kid: randomUUID(), alg, use: 'sig',
});
const jwks = { keys: [
  jwk('RS256', 'rsa', { modulusLength: 2048 }),
  jwk('ES256', 'ec', { namedCurve: 'P-256' }),
  jwk('EdDSA', 'ed25519'),
] };

// All of these mean the gateway; the name says how the token is made.
const resources = {
  'urn:gateway:rs256': { accessTokenFormat: 'jwt', jwt: { sign: { alg: 'RS256' } } },
  'urn:gateway:es256': { accessTokenFormat: 'jwt', jwt: { sign: { alg: 'ES256' } } },
  'urn:gateway:eddsa': { accessTokenFormat: 'jwt', jwt: { sign: { alg: 'EdDSA' } } },
  'urn:gateway:opaque': { accessTokenFormat: 'opaque' },
  'urn:elsewhere': { accessTokenFormat: 'jwt', jwt: { sign: { alg: 'ES256' } } },
};
const SCOPE = 'tickets.read tickets.write';
// Tool servers with accounts here: whatever listens on loopback, its tokens short-lived where the path says so.
const NOTES = /^http:\/\/127\.0\.0\.1:\d+\/(brief\/)?mcp$/;
function resourceServer(uri) {
  if (NOTES.test(uri)) {
    const accessTokenTTL = uri.endsWith('/brief/mcp') ? 10 : 300;
    return { audience: uri, scope: 'notes.read', accessTokenTTL, accessTokenFormat: 'opaque' };
  }
  if (!(uri in resources)) throw new errors.InvalidTarget();
  return { audience: uri, scope: SCOPE, accessTokenTTL: 300, ...resources[uri] };
}

const redirect_uris = ['https://agent.example/callback'];
const confidential = (name, grant_types) => ({
  client_id: name, client_secret: `${name}-secret-for-tests`, redirect_uris, grant_types,
  response_types: grant_types.includes('authorization_code') ? ['code'] : [],
});

const provider = new Provider(issuer, {
  jwks,
  clients: [
    confidential('planner', ['authorization_code', 'refresh_token', EXCHANGE]),
    confidential('coder', [EXCHANGE]),
    confidential('night-job', ['client_credentials']),
    { ...confidential('gateway', []), redirect_uris: [] },
    { client_id: 'laptop', token_endpoint_auth_method: 'none', redirect_uris, grant_types: ['authorization_code'] },
  ],
  scopes: ['openid', 'offline_access', 'tickets.read', 'tickets.write', 'notes.read'],
  cookies: { keys: ['not a secret: this is a test'] },
  ttl: { AccessToken: (ctx, token) => token.resourceServer?.accessTokenTTL ?? 300, ClientCredentials: 300, Grant: 3600, Session: 3600, Interaction: 600, RefreshToken: 3600 },
  findAccount: (ctx, id) => (id in groups ? { accountId: id, claims: () => ({ sub: id }) } : undefined),
  extraTokenClaims: (ctx, token) => ({
    ...(token.accountId && { groups: groups[token.accountId] }),
    ...(ctx?.state?.act && { act: ctx.state.act }),
  }),
  // Its own dispatcher refuses loopback addresses, where this test is.
  ...(pem && { fetch: (url, { dispatcher, ...options }) => fetch(url, options) }),
  pkce: { required: () => true },
  features: {
    devInteractions: { enabled: true },
    clientCredentials: { enabled: true },
    registration: { enabled: true },
    ...(pem && { clientIdMetadataDocument: { enabled: true, ack: 'draft-02' } }),
    revocation: { enabled: true, allowedPolicy: (ctx, client, token) => client.clientId === token.clientId },
    introspection: { enabled: true, allowedPolicy: (ctx, client) => client.clientId === 'gateway' },
    dPoP: { enabled: true },
    resourceIndicators: {
      enabled: true,
      useGrantedResource: () => true,
      getResourceServerInfo: (ctx, uri) => resourceServer(uri),
    },
  },
});

// RFC 8693 as far as a test needs it: JWTs in, JWTs out, each exchange nests the client into `act`.
provider.registerGrantType(EXCHANGE, async (ctx) => {
  const { client, params } = ctx.oidc;
  if (params.subject_token_type !== ACCESS_TOKEN) throw new errors.InvalidRequest('unknown subject_token_type');
  const keys = jose.createLocalJWKSet({ keys: jwks.keys.map(({ kty, crv, x, y, n, e, kid, alg }) =>
    JSON.parse(JSON.stringify({ kty, crv, x, y, n, e, kid, alg }))) });
  const { payload } = await jose.jwtVerify(params.subject_token, keys, { issuer, typ: 'at+jwt' })
    .catch(() => { throw new errors.InvalidGrant('subject_token is not valid'); });
  ctx.state.act = { sub: client.clientId, ...(payload.act && { act: payload.act }) };
  const token = new provider.AccessToken({ client, accountId: payload.sub, gty: 'exchange', scope: payload.scope });
  const server = new provider.ResourceServer(params.resource, resourceServer(params.resource));
  token.resourceServer = server;
  const value = await token.save();
  ctx.body = { access_token: value, issued_token_type: ACCESS_TOKEN, token_type: 'Bearer', expires_in: 300 };
}, ['subject_token', 'subject_token_type', 'resource']);

// A user takes back what they granted a client, as on a page of their account (the provider has no such page).
const granted = new Map();
provider.on('grant.saved', (grant) => granted.set(grant.jti, grant));
provider.use(async (ctx, next) => {
  const [, one] = /^\/test\/end\/([\w-]+)$/.exec(ctx.path) ?? [];
  if (one && ctx.method === 'POST') {
    await (await provider.AccessToken.find(one))?.destroy(); // the revocation endpoint would end its grant too
    ctx.status = 204;
    return;
  }
  const found = /^\/test\/forget\/([\w-]+)$/.exec(ctx.path);
  if (!found || ctx.method !== 'POST') return next();
  const theirs = [...granted.values()].filter(({ clientId }) => clientId === found[1]);
  for (const { jti } of theirs) {
    for (const kind of ['AccessToken', 'RefreshToken', 'AuthorizationCode']) await provider[kind].revokeByGrantId?.(jti);
    await (await provider.Grant.find(jti))?.destroy();
  }
  ctx.status = theirs.length ? 204 : 404;
});

const server = pem ? https.createServer({ key: pem, cert: pem }, provider.callback()) : provider;
server.listen(port, '127.0.0.1', () => console.log('ready'));
