/** What went wrong, in the server's own words, and what to do about it. */

import { useState } from "preact/hooks";
import { ServerError } from "./api";

interface Props {
  error: unknown;
  onRetry: () => void;
  onToken: (token: string) => void;
}

const TITLES: Record<ServerError["trouble"], string> = {
  unreachable: "The server does not answer",
  token: "This server asks for a token",
  forbidden: "Your token does not allow this",
  missing: "There is no such model",
  refused: "The server does not take this",
  busy: "The server has no room, or is still loading",
  failed: "The server failed",
};

export function TroubleView({ error, onRetry, onToken }: Props) {
  const trouble = error instanceof ServerError ? error.trouble : null;
  const message = error instanceof Error ? error.message : String(error);
  return (
    <section class="trouble" role="alert">
      <h2>{trouble ? TITLES[trouble] : "This did not work"}</h2>
      <p>{message}</p>
      {(trouble === "token" || trouble === "forbidden") && <TokenForm onToken={onToken} />}
      {(trouble === "unreachable" || trouble === "busy" || trouble === "failed") && (
        <button type="button" onClick={onRetry}>
          Try again
        </button>
      )}
    </section>
  );
}

function TokenForm({ onToken }: { onToken: (token: string) => void }) {
  const [token, setToken] = useState("");
  return (
    <form
      class="ways"
      onSubmit={(event) => {
        event.preventDefault();
        onToken(token.trim());
      }}
    >
      <label>
        Token
        <input
          type="password"
          autocomplete="off"
          required
          value={token}
          onInput={(event) => setToken(event.currentTarget.value)}
        />
      </label>
      <button type="submit">Use token</button>
      <span class="hint">Kept in this page's memory until you leave it.</span>
    </form>
  );
}
