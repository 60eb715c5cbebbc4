package tree

import "context"

// Actor is who asks for a change.
type Actor struct {
	// Name is a user, "key/NAME" for an API key, "uid/N" for who has opened the admin socket, "node/NAME" for a node
	// of the cluster; "" is a client that did not say who it is.
	Name string
	// How says how the actor proved its name: "password", "token", "key", "oidc", "socket", "node"; "" if it did not.
	How string
	// From is the address that the request came from; "" for the admin socket and for the node itself.
	From string
}

type actorKey struct{}

// WithActor returns a context whose changes are made by actor.
func WithActor(ctx context.Context, actor Actor) context.Context {
	return context.WithValue(ctx, actorKey{}, actor)
}

// ActorIn returns the actor of WithActor; the zero Actor if there is none, which is the node itself.
func ActorIn(ctx context.Context) Actor {
	a, _ := ctx.Value(actorKey{}).(Actor)
	return a
}
