package peer

import "log/slog"

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// records are the members, by name, with the addresses of their records.
type records map[string][]string

// fake is Members of which only the records are asked.
type fake struct {
	Members
	records
}

func (r fake) Addresses(node string) ([]string, bool) { a, known := r.records[node]; return a, known }

func (fake) JoinAddresses(string) []string { return nil }
