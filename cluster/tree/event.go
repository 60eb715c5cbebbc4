package tree

import "context"

// Event tells what a change means to people: one act of a user, for the audit log. Texts are cut to 1024 bytes (Verb:
// 64) and control characters are replaced. None may hold a secret.
type Event struct {
	// Verb is what was done: a noun and a verb, "image.push", "user.remove".
	Verb string
	// Object is what it was done to, by the name under which people know it: "docker.io/library/nginx:1.25".
	Object string
	// Old and New are the values before and after, "" if there is none or it is secret. For images and files they are
	// digests, which the tree adds.
	Old, New string
	// Outcome is why it was not done; "" is done. A change that the tree refuses gets its outcome there.
	Outcome string
}

type eventKey struct{}

// WithEvent returns a context in which the next change of the tree is told as e. It is for one Update, CommitNamed or
// DropClaims; a change without it is told by the names that it changes. The event is in the log if and only if the
// change is.
func WithEvent(ctx context.Context, e Event) context.Context {
	return context.WithValue(ctx, eventKey{}, e)
}

// EventIn returns the event of WithEvent.
func EventIn(ctx context.Context) (Event, bool) {
	e, ok := ctx.Value(eventKey{}).(Event)
	return e, ok
}
