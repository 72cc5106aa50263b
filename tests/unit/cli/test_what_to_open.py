"""The last line of a verb names what exists."""

from vitreg.cli.command import open_result


def test_the_record_is_named_where_no_page_could_be_drawn(tmp_path, capsys):
    open_result(tmp_path)
    (tmp_path / "report.html").touch()
    open_result(tmp_path)
    assert capsys.readouterr().out.splitlines() == [f"Open {tmp_path}/result.json", f"Open {tmp_path}/report.html"]
