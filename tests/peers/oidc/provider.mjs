// An OpenID provider for tests: `node provider.mjs <port> <key name> <settings as JSON>`. Its login form accepts every
// password. An account's name is its subject, and the settings hold the claims of each.

import { generateKeyPairSync } from "node:crypto";
import Provider from "oidc-provider";

const [port, kid, settings] = process.argv.slice(2);
const { client, accounts, idTokenSeconds = 300 } = JSON.parse(settings);
const issuer = `http://127.0.0.1:${port}`;
const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });

const provider = new Provider(issuer, {
  clients: [{ grant_types: ["authorization_code"], response_types: ["code"], ...client }],
  jwks: { keys: [{ ...privateKey.export({ format: "jwk" }), kid, use: "sig", alg: "RS256" }] },
  cookies: { keys: ["only for tests"] },
  claims: { openid: ["sub"], email: ["email", "email_verified", "groups"] },
  // The e-mail is in the ID token, as with most providers.
  conformIdTokenClaims: false,
  ttl: { IdToken: idTokenSeconds },
  findAccount: (_context, id) => (accounts[id] ? { accountId: id, claims: () => ({ sub: id, ...accounts[id] }) } : undefined),
  // Consent is not asked for.
  async loadExistingGrant({ oidc }) {
    const grant = new provider.Grant({ accountId: oidc.session.accountId, clientId: oidc.client.clientId });
    grant.addOIDCScope("openid email");
    await grant.save();
    return grant;
  },
});
provider.on("server_error", (_context, error) => console.error(error));
provider.listen(Number(port), "127.0.0.1", () => console.log("ready"));
