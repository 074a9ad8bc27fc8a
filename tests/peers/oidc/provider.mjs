// An OpenID provider for tests: `node provider.mjs <port> <key name> <settings as JSON>`. Its login form wants no password.
// An account's name is its subject, and the settings hold the claims of each.

import { generateKeyPairSync } from "node:crypto";
import Provider from "oidc-provider";

const [port, kid, settings] = process.argv.slice(2);
const { client, accounts } = JSON.parse(settings);
const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });

const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: [{ grant_types: ["authorization_code"], response_types: ["code"], ...client }],
  jwks: { keys: [{ ...privateKey.export({ format: "jwk" }), kid, use: "sig", alg: "RS256" }] },
  cookies: { keys: ["only for tests"] },
  claims: { openid: ["sub"], email: ["email", "email_verified", "groups"] },
  // The e-mail is in the ID token, as with most providers.
  conformIdTokenClaims: false,
  // The built-in forms load fonts from the internet.
  features: { devInteractions: { enabled: false } },
  interactions: { url: (_context, interaction) => `/login/${interaction.uid}` },
  findAccount: (_context, id) => (accounts[id] ? { accountId: id, claims: () => ({ sub: id, ...accounts[id] }) } : undefined),
  // Consent is not asked for.
  async loadExistingGrant({ oidc }) {
    const grant = new provider.Grant({ accountId: oidc.session.accountId, clientId: oidc.client.clientId });
    grant.addOIDCScope("openid email");
    await grant.save();
    return grant;
  },
});

provider.use(async (context, next) => {
  if (!context.path.startsWith("/login/")) return next();
  if (context.method === "GET") {
    context.type = "html";
    context.body = '<!doctype html><title>Login</title><form method="post"><input name="login"><button type="submit">Sign in</button></form>';
    return undefined;
  }
  let body = "";
  for await (const part of context.req) body += part;
  const accountId = new URLSearchParams(body).get("login");
  context.redirect(await provider.interactionResult(context.req, context.res, { login: { accountId } }));
  return undefined;
});
provider.on("server_error", (_context, error) => console.error(error));
provider.listen(Number(port), "127.0.0.1", () => console.log("ready"));
