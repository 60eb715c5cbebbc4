package resolver

import (
	"context"
	"errors"

	"casemate/appliance/usage"
	"casemate/dnssrv"
	"casemate/dnssrv/process"
)

// Explain asks the DNS process what a client would be answered, and why. A question that is wrong is a usage error.
func (r *Resolver) Explain(ctx context.Context, in dnssrv.Inquiry) (dnssrv.Explanation, error) {
	e, err := r.link.Explain(ctx, in)
	if errors.As(err, new(*process.Mistake)) {
		err = &usage.Error{Err: err}
	}
	return e, err
}

// Resolvers asks the DNS process how the resolvers of dns.forward are.
func (r *Resolver) Resolvers(ctx context.Context) ([]dnssrv.Resolver, error) {
	return r.link.Resolvers(ctx)
}
