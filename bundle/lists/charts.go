package lists

import (
	"fmt"
	"io"
	"regexp"
	"strings"
)

var (
	// ChartName matches the names that charts have in repositories, which are more than Helm allows for new charts.
	ChartName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,249}$`)
	// chartVersion matches a semantic version (semver.org 2.0.0), perhaps with "v" and with fewer than three numbers,
	// as charts have them.
	chartVersion = regexp.MustCompile(`^v?[0-9]+(\.[0-9]+){0,2}(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$`)
)

// Charts reads a list of Helm charts, one a line: "oci://HOST/REPOSITORY/CHART:VERSION" or "oci://HOST/REPOSITORY/CHART
// VERSION" for charts in registries (they are images in Wanted), and "https://REPOSITORY CHART [VERSION]" for classic
// repositories, without a version the newest. name is the list's name in messages.
func (l *Parser) Charts(name string, r io.Reader) {
	l.eachLine(name, r, func(where, line string) error {
		words := strings.Fields(line)
		if strings.HasPrefix(words[0], "oci://") {
			return l.ociChart(where, words)
		}
		return l.classicChart(where, words)
	})
}

func (l *Parser) ociChart(where string, words []string) error {
	ref := words[0]
	switch last := ref[strings.LastIndexByte(ref, '/')+1:]; {
	case len(words) > 2:
		return fmt.Errorf(
			"%s is more than a chart and its version: write oci://HOST/REPOSITORY/CHART:VERSION",
			shown(strings.Join(words, " ")),
		)
	case len(words) == 1:
	case strings.ContainsAny(last, ":@"):
		return fmt.Errorf("%s has a version already: remove %s", shown(ref), shown(words[1]))
	case !chartVersion.MatchString(words[1]):
		return fmt.Errorf("%s is no version: write one such as 1.2.3", shown(words[1]))
	default:
		ref += ":" + words[1]
	}
	return l.image(where, ref)
}

func (l *Parser) classicChart(where string, words []string) error {
	if !urlScheme.MatchString(words[0]) {
		return fmt.Errorf(
			"%s is neither oci://… nor the URL of a chart repository: write oci://HOST/REPOSITORY/CHART:VERSION or "+
				"https://REPOSITORY CHART VERSION",
			shown(words[0]),
		)
	}
	repo, err := ParseFileURL(words[0])
	switch {
	case err != nil:
		return err
	case len(words) == 1 && strings.HasSuffix(repo, ".tgz"):
		return fmt.Errorf("%s is a chart's archive: it belongs in a list of files (--files)", shown(repo))
	case len(words) == 1:
		return fmt.Errorf("%s names a repository but no chart: write %s CHART VERSION", shown(repo), repo)
	case len(words) > 3:
		return fmt.Errorf("%s is more than a repository, a chart and its version", shown(strings.Join(words, " ")))
	case strings.Contains(repo, "?"):
		return fmt.Errorf("%s has a query: the URL of a repository is the part before /index.yaml", shown(repo))
	case !ChartName.MatchString(words[1]):
		return fmt.Errorf("%s is not the name of a chart: write %s CHART VERSION", shown(words[1]), repo)
	}
	c := Chart{Repo: strings.TrimSuffix(strings.TrimSuffix(repo, "/index.yaml"), "/"), Name: words[1], Where: where}
	if len(words) == 3 {
		if !chartVersion.MatchString(words[2]) {
			return fmt.Errorf("%s is not a version: write one such as 1.2.3, ranges are not supported", shown(words[2]))
		}
		c.Version = words[2]
	}
	if _, again := l.first("chart "+c.Repo+" "+c.Name+" "+c.Version, request{where: where}); !again {
		l.wanted.Charts = append(l.wanted.Charts, c)
	}
	return nil
}
